from .formats import (
    FORMATS as FORMATS,
)
from .parity import (
    install_nsfwjs as install_nsfwjs,
)
from .write import (
    export as export,
)
