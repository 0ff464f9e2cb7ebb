from .formats import (
    FORMATS as FORMATS,
    preprocessing as preprocessing,
)
from .node import (
    ask_nsfwjs as ask_nsfwjs,
    install_nsfwjs as install_nsfwjs,
)
from .parity import (
    picture_windows as picture_windows,
)
from .tfjs import (
    read_tfjs as read_tfjs,
    write_tfjs as write_tfjs,
)
from .write import (
    export as export,
)
