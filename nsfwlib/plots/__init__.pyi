from .data import (
    plot_contact_sheet as plot_contact_sheet,
)
from .data import (
    plot_counts as plot_counts,
)
from .data import (
    plot_feature_map as plot_feature_map,
)
from .data import (
    plot_formats as plot_formats,
)
from .data import (
    plot_heat_maps as plot_heat_maps,
)
from .data import (
    plot_problems as plot_problems,
)
from .data import (
    plot_sizes as plot_sizes,
)
from .evaluation import (
    plot_calibration as plot_calibration,
)
from .evaluation import (
    plot_class_scores as plot_class_scores,
)
from .evaluation import (
    plot_confusion as plot_confusion,
)
from .evaluation import (
    plot_confusion_pair as plot_confusion_pair,
)
from .evaluation import (
    plot_incarnations as plot_incarnations,
)
from .evaluation import (
    plot_intervals as plot_intervals,
)
from .evaluation import (
    plot_operating_points as plot_operating_points,
)
from .evaluation import (
    plot_parity as plot_parity,
)
from .evaluation import (
    plot_precision_recall as plot_precision_recall,
)
from .evaluation import (
    plot_robustness as plot_robustness,
)
from .evaluation import (
    plot_roc as plot_roc,
)
from .evaluation import (
    plot_score_histogram as plot_score_histogram,
)
from .evaluation import (
    plot_slices as plot_slices,
)
from .evaluation import (
    plot_threshold as plot_threshold,
)
from .labels import (
    plot_noise_matrix as plot_noise_matrix,
)
from .labels import (
    plot_recall_at_budget as plot_recall_at_budget,
)
from .labels import (
    plot_scores as plot_scores,
)
from .style import (
    CLASS_COLOURS as CLASS_COLOURS,
)
from .style import (
    styled as styled,
)
from .training import (
    plot_history as plot_history,
)
from .training import (
    plot_learning_curve as plot_learning_curve,
)
