from .report import (
    chosen_thresholds as chosen_thresholds,
)
from .report import (
    class_names as class_names,
)
from .report import (
    counts_above as counts_above,
)
from .report import (
    thumbnails as thumbnails,
)
from .report import (
    unsafe_scores as unsafe_scores,
)
from .run import (
    score as score,
)
from .run import (
    summary as summary,
)
from .source import (
    open_source as open_source,
)
from .store import (
    read_scores as read_scores,
)
