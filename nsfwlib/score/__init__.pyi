from .report import (
    chosen_thresholds as chosen_thresholds,
    class_names as class_names,
    counts_above as counts_above,
    thumbnails as thumbnails,
    unsafe_scores as unsafe_scores,
)
from .run import (
    frame_scores as frame_scores,
    score as score,
    summary as summary,
)
from .store import (
    read_scores as read_scores,
)
