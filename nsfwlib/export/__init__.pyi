from .formats import (
    FORMATS as FORMATS,
)
from .node import (
    install_nsfwjs as install_nsfwjs,
)
from .write import (
    export as export,
)
