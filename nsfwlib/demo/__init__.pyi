from .dataset import (
    CLASSES as CLASSES,
    TRUTH_COLUMNS as TRUTH_COLUMNS,
    make_demo as make_demo,
    planted_errors as planted_errors,
    read_truth as read_truth,
    simulated_answers as simulated_answers,
    truth_path as truth_path,
)
from .shipped import (
    shipped_photographs as shipped_photographs,
    shipped_pictures as shipped_pictures,
)
