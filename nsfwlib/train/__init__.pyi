from .forecast import (
    learning_curve as learning_curve,
)
from .forecast import (
    training_cost as training_cost,
)
from .head import (
    compile_classifier as compile_classifier,
)
from .head import (
    predict as predict,
)
from .head import (
    predictions_table as predictions_table,
)
from .head import (
    train_head as train_head,
)
from .stages import (
    fine_tune as fine_tune,
)
