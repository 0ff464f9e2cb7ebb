from .build import (
    build_classifier as build_classifier,
    load_model as load_model,
    published_model as published_model,
)
from .classifier import (
    block_output as block_output,
    class_names as class_names,
    feature_model as feature_model,
    find_blocks as find_blocks,
    freeze_backbone as freeze_backbone,
    head_blocks as head_blocks,
    head_model as head_model,
    image_size as image_size,
    save_model as save_model,
    seed_dropout as seed_dropout,
    set_logistic_head as set_logistic_head,
    set_rescaling as set_rescaling,
    set_temperature as set_temperature,
    unfreeze_from as unfreeze_from,
    with_head as with_head,
)
from .cluster import (
    cluster_answers as cluster_answers,
)
from .features import (
    block_features as block_features,
    bottleneck_features as bottleneck_features,
    head_answers as head_answers,
    missing_rows as missing_rows,
)
from .forward import (
    compiled as compiled,
    forward_pass as forward_pass,
    in_half_precision as in_half_precision,
    model_identity as model_identity,
)
from .published import (
    CLASS_NAMES as CLASS_NAMES,
    PACKAGE as PACKAGE,
    VERSION as VERSION,
    read_weights as read_weights,
    run_tool as run_tool,
)
from .ready import (
    Ready as Ready,
    make_ready as make_ready,
    read_description as read_description,
)
from .runtime import (
    COMPARED as COMPARED,
    PRECISIONS as PRECISIONS,
    RUNTIMES as RUNTIMES,
    agreement as agreement,
    choose_precision as choose_precision,
    in_words as in_words,
    quantised as quantised,
    require_openvino as require_openvino,
)
from .stream import (
    Answer as Answer,
    Files as Files,
    Forward as Forward,
    decoded_batches as decoded_batches,
    hashed as hashed,
    load_picture as load_picture,
    stream_answers as stream_answers,
)
