from .build import (
    build_classifier as build_classifier,
)
from .build import (
    load_model as load_model,
)
from .build import (
    resolve_model as resolve_model,
)
from .classifier import (
    BACKBONES as BACKBONES,
)
from .classifier import (
    block_output as block_output,
)
from .classifier import (
    class_names as class_names,
)
from .classifier import (
    feature_model as feature_model,
)
from .classifier import (
    freeze_backbone as freeze_backbone,
)
from .classifier import (
    head_dense_layers as head_dense_layers,
)
from .classifier import (
    head_model as head_model,
)
from .classifier import (
    image_size as image_size,
)
from .classifier import (
    last_block as last_block,
)
from .classifier import (
    reset_head as reset_head,
)
from .classifier import (
    save_model as save_model,
)
from .classifier import (
    seed_dropout as seed_dropout,
)
from .classifier import (
    set_rescaling as set_rescaling,
)
from .classifier import (
    set_temperature as set_temperature,
)
from .classifier import (
    unfreeze_from as unfreeze_from,
)
from .cluster import (
    cluster_answers as cluster_answers,
)
from .features import (
    block_features as block_features,
)
from .features import (
    bottleneck_features as bottleneck_features,
)
from .features import (
    decoded_batches as decoded_batches,
)
from .features import (
    missing_rows as missing_rows,
)
from .forward import (
    folded as folded,
)
from .forward import (
    forward_pass as forward_pass,
)
from .forward import (
    in_half_precision as in_half_precision,
)
from .forward import (
    model_identity as model_identity,
)
from .forward import (
    onnx_file as onnx_file,
)
from .published import (
    CLASS_NAMES as CLASS_NAMES,
)
from .published import (
    PACKAGE as PACKAGE,
)
from .published import (
    VERSION as VERSION,
)
from .published import (
    load_backbone as load_backbone,
)
from .published import (
    published_model as published_model,
)
from .runtime import (
    Forward as Forward,
)
from .runtime import (
    Ready as Ready,
)
from .runtime import (
    make_ready as make_ready,
)
from .stream import (
    Answer as Answer,
)
from .stream import (
    Files as Files,
)
from .stream import (
    hashed as hashed,
)
from .stream import (
    load_picture as load_picture,
)
from .stream import (
    stream_answers as stream_answers,
)
from .stream import (
    warm_up as warm_up,
)
