from .confusion import (
    plot_confusion as plot_confusion,
    plot_confusion_pair as plot_confusion_pair,
)
from .data import (
    class_looks as class_looks,
    plot_contact_sheet as plot_contact_sheet,
    plot_counts as plot_counts,
    plot_feature_map as plot_feature_map,
    plot_formats as plot_formats,
    plot_heat_maps as plot_heat_maps,
    plot_noise_matrix as plot_noise_matrix,
    plot_problems as plot_problems,
    plot_scores as plot_scores,
    plot_sizes as plot_sizes,
)
from .evaluation import (
    live_history as live_history,
    plot_calibration as plot_calibration,
    plot_class_scores as plot_class_scores,
    plot_detectors as plot_detectors,
    plot_history as plot_history,
    plot_intervals as plot_intervals,
    plot_learning_curve as plot_learning_curve,
    plot_parity as plot_parity,
    plot_precision_recall as plot_precision_recall,
    plot_robustness as plot_robustness,
    plot_roc as plot_roc,
    plot_score_histogram as plot_score_histogram,
    plot_slices as plot_slices,
    plot_threshold as plot_threshold,
    plot_week as plot_week,
)
