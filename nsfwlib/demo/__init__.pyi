from .dataset import (
    CLASSES as CLASSES,
)
from .dataset import (
    TRUTH_COLUMNS as TRUTH_COLUMNS,
)
from .dataset import (
    make_demo as make_demo,
)
from .dataset import (
    planted_errors as planted_errors,
)
from .dataset import (
    read_truth as read_truth,
)
from .dataset import (
    simulated_answers as simulated_answers,
)
from .dataset import (
    truth_path as truth_path,
)
from .shipped import (
    shipped_photographs as shipped_photographs,
)
from .shipped import (
    shipped_pictures as shipped_pictures,
)
