from .audit import (
    audit_accuracies as audit_accuracies,
    audit_costs as audit_costs,
    audited_accuracy as audited_accuracy,
    audited_confusion as audited_confusion,
    audited_rows as audited_rows,
    audited_scores as audited_scores,
    draw_audit as draw_audit,
)
from .audit_files import (
    audit_progress as audit_progress,
    audit_queue as audit_queue,
    audit_truth as audit_truth,
    audit_width as audit_width,
    audits_of_run as audits_of_run,
    draw_audits as draw_audits,
    errors_left as errors_left,
    label_errors as label_errors,
    load_audit as load_audit,
    second_looks as second_looks,
)
from .card import (
    held_out as held_out,
    with_intervals as with_intervals,
    write_card as write_card,
)
from .comparison import (
    comparable_rows as comparable_rows,
    compare_detectors as compare_detectors,
    differences_to_best as differences_to_best,
    shared_audit as shared_audit,
)
from .confusion import (
    confused_pairs as confused_pairs,
    confusion_intervals as confusion_intervals,
    confusion_matrix as confusion_matrix,
    published_matrices as published_matrices,
)
from .detectors import (
    is_wrong as is_wrong,
    read_detector as read_detector,
)
from .intervals import (
    jeffreys as jeffreys,
    share_interval as share_interval,
)
from .metrics import (
    apply_temperature as apply_temperature,
    calibration_table as calibration_table,
    compare as compare,
    fit_temperature as fit_temperature,
    log_losses as log_losses,
    scores as scores,
)
from .promises import (
    operating_points as operating_points,
)
from .reviewers import (
    cohens_kappa as cohens_kappa,
    reviewer_accuracies as reviewer_accuracies,
)
from .robustness import (
    accuracy_by_slice as accuracy_by_slice,
    baseline_answers as baseline_answers,
    cached_robustness as cached_robustness,
    explain_errors as explain_errors,
    slice_attributes as slice_attributes,
)
from .thresholds import (
    Judged as Judged,
    at_threshold as at_threshold,
    threshold_curve as threshold_curve,
    unsafe_score as unsafe_score,
    unsafe_side as unsafe_side,
)
from .traffic import (
    clip_scores as clip_scores,
    draw_traffic as draw_traffic,
    review_week as review_week,
    score_shift as score_shift,
    traffic_at as traffic_at,
    traffic_shares as traffic_shares,
)
