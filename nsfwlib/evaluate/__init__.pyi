from .audit import (
    audit_plan as audit_plan,
)
from .audit import (
    audited_accuracy as audited_accuracy,
)
from .audit import (
    audited_confusion as audited_confusion,
)
from .audit import (
    audited_label_errors as audited_label_errors,
)
from .audit import (
    audited_share as audited_share,
)
from .audit import (
    draw_audit as draw_audit,
)
from .audit import (
    enlarge_audit as enlarge_audit,
)
from .audit_files import (
    audit_accuracies as audit_accuracies,
)
from .audit_files import (
    audit_confusion as audit_confusion,
)
from .audit_files import (
    audit_costs as audit_costs,
)
from .audit_files import (
    audit_progress as audit_progress,
)
from .audit_files import (
    audit_queue as audit_queue,
)
from .audit_files import (
    audit_truth as audit_truth,
)
from .audit_files import (
    audits_of_run as audits_of_run,
)
from .audit_files import (
    draw_audits as draw_audits,
)
from .audit_files import (
    freeze_audit as freeze_audit,
)
from .audit_files import (
    label_errors as label_errors,
)
from .audit_files import (
    load_audit as load_audit,
)
from .card import (
    write_card as write_card,
)
from .confusion import (
    confused_pairs as confused_pairs,
)
from .confusion import (
    confusion_intervals as confusion_intervals,
)
from .confusion import (
    confusion_matrix as confusion_matrix,
)
from .confusion import (
    effective_support as effective_support,
)
from .confusion import (
    published_matrices as published_matrices,
)
from .confusion import (
    read_incarnations as read_incarnations,
)
from .confusion import (
    save_incarnation as save_incarnation,
)
from .intervals import (
    bootstrap_weights as bootstrap_weights,
)
from .intervals import (
    effective_count as effective_count,
)
from .intervals import (
    group_codes as group_codes,
)
from .intervals import (
    group_correlation as group_correlation,
)
from .intervals import (
    jeffreys as jeffreys,
)
from .intervals import (
    tails as tails,
)
from .metrics import (
    apply_temperature as apply_temperature,
)
from .metrics import (
    calibration_error as calibration_error,
)
from .metrics import (
    calibration_table as calibration_table,
)
from .metrics import (
    compare as compare,
)
from .metrics import (
    fit_temperature as fit_temperature,
)
from .metrics import (
    scores as scores,
)
from .robustness import (
    baseline_answers as baseline_answers,
)
from .robustness import (
    cached_robustness as cached_robustness,
)
from .robustness import (
    explain_errors as explain_errors,
)
from .robustness import (
    heat_maps as heat_maps,
)
from .robustness import (
    measure_robustness as measure_robustness,
)
from .slices import (
    accuracy_by_slice as accuracy_by_slice,
)
from .slices import (
    slice_attributes as slice_attributes,
)
from .thresholds import (
    at_threshold as at_threshold,
)
from .thresholds import (
    expected_counts as expected_counts,
)
from .thresholds import (
    operating_points as operating_points,
)
from .thresholds import (
    threshold_curve as threshold_curve,
)
from .thresholds import (
    unsafe_rows as unsafe_rows,
)
from .thresholds import (
    unsafe_score as unsafe_score,
)
