from .forecast import (
    learning_curve as learning_curve,
    training_cost as training_cost,
)
from .head import (
    compile_classifier as compile_classifier,
    predict as predict,
    predictions_table as predictions_table,
    train_head as train_head,
)
from .stages import (
    fine_tune as fine_tune,
    try_rates as try_rates,
)
