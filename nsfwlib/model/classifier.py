"""What is the classifier? A Keras model: raw RGB 0–255 in, probabilities out, everything else inside.

Rescaling, temperature and class names are layers, so that a saved `.keras` gives the same answers wherever plain
Keras loads it.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nsfwlib._tensorflow import keras
from nsfwlib.files import table_path, write_whole

FEATURES = "features"  # the layer of pooled outputs of one or several blocks, where the head begins
STANDARDISE = "standardise"  # the layer of a logistic head that holds mean and variance of its features
_CLASSES = "classes"  # the last layer; its name carries the class names


def checked_names(class_names: Sequence[str]) -> list[str]:
    """The names as they are, or a ValueError: see its text."""
    names = [str(name) for name in class_names]
    plain = [name.replace("\\", "") for name in names]
    fit = all(0 < len(name) < 256 for name in names) and [table_path(name) for name in plain] == plain
    if len(names) < 2 or len(set(names)) < len(names) or not fit:
        raise ValueError(
            "class_names must be two or more different names, printable and of at most 255 characters. Received: "
            f"{[name[:256] for name in names]}."
        )
    return names


def with_head(
    model: keras.Model, class_names: Sequence[str], *, blocks: Sequence[str] | None = None, head: str = "logistic"
) -> keras.Model:
    """A classifier with a fresh head on the pooled outputs of `blocks`; it *shares* the backbone of `model`, frozen.

    Args:
        model: a classifier, or a network of square RGB pictures that begins with the layer "rescaling".
        class_names: K names in the order of the outputs.
        blocks: names of layers, the deepest last, see `find_blocks`, by default the last block; a ValueError lists
            those there are where one is unknown.
        head: "logistic" (standardised features, softmax) or "original", see `model.build_classifier`.
    """
    layers = keras.layers
    maps = [block_output(model, block) for block in blocks or find_blocks(model)[-1:]]
    names = [f"pooled_{i}" for i in range(len(maps))] if len(maps) > 1 else [FEATURES]
    pooled = [layers.GlobalAveragePooling2D(name=name)(each) for name, each in zip(names, maps, strict=True)]
    features = layers.Concatenate(name=FEATURES)(pooled) if len(maps) > 1 else pooled[0]
    classifier = keras.Model(model.input, _head(features, checked_names(class_names), head), name="classifier")
    freeze_backbone(classifier)
    return classifier


def _head(features: keras.KerasTensor, names: list[str], head: str) -> keras.KerasTensor:
    layers, x = keras.layers, features
    if head == "logistic":  # frozen, so that it never learns
        fixed = {"center": False, "scale": False, "epsilon": 1e-7, "trainable": False}
        x = layers.BatchNormalization(name=STANDARDISE, **fixed)(x)
    elif head == "original":
        for i, (share, units) in enumerate([(0.4, 256), (0.5, 128)], start=1):
            x = layers.Dropout(share, name=f"head_dropout_{i}")(x)
            x = layers.Dense(units, activation="relu", name=f"head_dense_{i}")(x)
        x = layers.Dropout(0.25, name="head_dropout_3")(x)
    else:
        raise ValueError(f"head must be one of original, logistic. Received: {head!r}.")
    x = layers.Dense(len(names), name="logits")(x)
    x = layers.Rescaling(1.0, name="temperature", dtype="float32")(x)
    return named(layers.Softmax(name="probabilities", dtype="float32")(x), names)


def named(x: keras.KerasTensor, names: Sequence[str]) -> keras.KerasTensor:
    """`x` behind the layer whose name carries `names`; TensorFlow restricts it to letters, digits, `_`, `-` and `.`."""
    parts = [re.sub(r"[^A-Za-z0-9-]", lambda match: f"_{ord(match.group()):x}_", name) for name in names]
    return keras.layers.Identity(name=".".join([_CLASSES, *parts]), dtype="float32")(x)


def class_names(model: keras.Model) -> list[str]:
    """The class names that travel in the model, in the order of its outputs; a ValueError where it carries none."""
    kind, *parts = model.layers[-1].name.split(".")
    if kind != _CLASSES or len(parts) != model.output_shape[-1]:
        raise ValueError(
            f"The model {model.name!r} carries no class names: its last layer is {model.layers[-1].name!r}. Expected "
            "a model made by model.build_classifier."
        )
    escaped = re.compile(r"_(10[0-9a-f]{4}|[0-9a-f]{1,5})_")
    return checked_names([escaped.sub(lambda match: chr(int(match.group(1), 16)), part) for part in parts])


def image_size(model: keras.Model) -> int:
    """Side S in pixels of the square pictures that the model takes; a ValueError where it takes something else."""
    shape = model.input_shape
    if not isinstance(shape, tuple) or len(shape) != 4 or shape[1] != shape[2] or not shape[1] or shape[3] != 3:
        raise ValueError(f"Expected a model of square RGB pictures (B, S, S, 3). Received: {model.name!r} of {shape}.")
    return shape[1]


def head_layers(model: keras.Model, kind: type = keras.layers.Layer) -> list[keras.layers.Layer]:
    """The head's layers, or those of a `kind`, from the features to the class names."""
    start = model.layers.index(_block(model, FEATURES)) + 1
    return [layer for layer in model.layers[start:] if isinstance(layer, kind)]


def head_model(model: keras.Model) -> keras.Model:
    """The head alone, (B, D) features → (B, K) probabilities, *sharing* its layers: to train it trains the model's."""
    x = inputs = keras.Input(_block(model, FEATURES).output.shape[1:], name=FEATURES)
    for layer in head_layers(model):
        x = layer(x)
    return keras.Model(inputs, x, name="head")


def set_logistic_head(
    model: keras.Model, kernel: np.ndarray, bias: np.ndarray, mean: np.ndarray, std: np.ndarray
) -> None:
    """Make the head answer softmax(features · kernel (D, K) + bias (K,)), features standardised by mean and std (D,).

    They are scaled to a length of about 1, however many they are, so that a step of training moves any head as far.
    A ValueError where the head is not the "logistic" one.
    """
    if STANDARDISE not in {layer.name for layer in model.layers}:
        raise ValueError(
            f"The head of the model {model.name!r} must be 'logistic', which has one solution. Received: one of dense "
            "layers. Build it with model.build_classifier(…, head='logistic'), or give it one by model.with_head."
        )
    std = np.where(std > 0, std, 1.0) * np.sqrt(len(std))
    model.get_layer(STANDARDISE).set_weights([mean, std**2])
    model.get_layer("logits").set_weights([kernel * std[:, None], bias + mean @ kernel])


def seed_dropout(model: keras.Model, *, seed: int) -> None:
    """Make the next training draw the same dropout masks, however often the layers have drawn before."""
    for i, layer in enumerate(head_layers(model)):
        if isinstance(layer, keras.layers.Dropout):
            layer.seed_generator.state.assign([seed, i])


def feature_model(model: keras.Model, blocks: Sequence[str]) -> keras.Model:
    """The backbone up to `blocks`: RGB 0–255 (B, S, S, 3) → a list of average-pooled outputs (B, D_block)."""
    maps, pool = [block_output(model, block) for block in blocks], keras.layers.GlobalAveragePooling2D
    pooled = [each if len(each.shape) == 2 else pool()(each) for each in maps]
    return keras.Model(model.input, pooled, name="backbone")


def block_output(model: keras.Model, block: str) -> keras.KerasTensor:
    """Symbolic output of the layer `block`; a ValueError lists the blocks where there is none of that name."""
    return _block(model, block).output


def _block(model: keras.Model, name: str) -> keras.layers.Layer:
    try:
        return model.get_layer(name)
    except ValueError:
        merges = ("mixed", "add", "out", FEATURES)
        known = [layer.name for layer in model.layers if layer.name.endswith(merges) or layer.name.startswith(merges)]
        raise ValueError(f"The backbone has no block {name!r}. Blocks it has: {', '.join(known)}.") from None


def find_blocks(model: keras.Model) -> list[str]:
    """Names of the ends of the backbone's stages: the last layer of each resolution that all paths go through.

    From fine to coarse; InceptionV3's are the stem's last two, mixed2 (35 × 35 positions of a picture of 299), mixed7
    (17 × 17) and mixed10 (8 × 8). The last one alone feeds the head of 2019.
    """
    names, ends, furthest = [layer.name for layer in model.layers], {}, {}
    body = model.layers[: names.index(FEATURES) if FEATURES in names else None]
    body = [layer for layer in body if not layer.name.startswith("pooled_")]
    place = {id(layer): i for i, layer in enumerate(body)}
    for i, layer in enumerate(body):
        for tensor in keras.tree.flatten(layer.input):
            furthest[place.get(id(tensor._keras_history.operation))] = i  # None: the input of a nested model
    reach = 0
    for i, layer in enumerate(body):
        shape = getattr(layer.output, "shape", ())
        if len(shape) == 4 and reach <= i and not isinstance(layer, keras.layers.ZeroPadding2D):
            ends[round(np.log2(model.input_shape[1] / shape[1]))] = layer.name
        reach = max(reach, furthest.get(i, 0))
    return [name for stage, name in ends.items() if stage]  # without the pictures themselves


def head_blocks(model: keras.Model) -> list[str]:
    """Names of the blocks whose pooled outputs feed the head, in its order (["mixed10"] in the model of 2019)."""
    source = _block(model, FEATURES)
    pools = source.input if isinstance(source.input, list) else [source.output]
    return [tensor._keras_history.operation.input._keras_history.operation.name for tensor in pools]


def freeze_backbone(model: keras.Model) -> None:
    """Leave only the head trainable. Compile again afterwards."""
    unfreeze_from(model, FEATURES)


def unfreeze_from(model: keras.Model, block: str) -> None:
    """Make the backbone trainable after `block` ("mixed0" … "mixed10"), BatchNorm excepted.

    BatchNorm keeps its statistics and its offsets: small batches of a new domain would wreck them, and under Keras 3
    `training=False` does not protect them in `fit`; only `trainable = False` on each layer does. Compile again
    afterwards. A ValueError where the backbone has no such layer.
    """
    last = model.layers.index(_block(model, block))
    for i, layer in enumerate(model.layers):
        layer.trainable = i > last and not isinstance(layer, keras.layers.BatchNormalization)


def by_kind(layers: Sequence[keras.layers.Layer]) -> dict[str, list[keras.layers.Layer]]:
    """Those of `layers` that have weights, by kind of layer, in the order of their numbers."""
    # automatic names such as conv2d_57 depend on what else the process has built; their order does not
    numbered = [(*re.fullmatch(r"(.*?)_?(\d*)", layer.name).groups(), layer) for layer in layers]
    kinds: dict[str, list[keras.layers.Layer]] = {}
    for *_, layer in sorted(numbered, key=lambda one: (one[0], int(one[1] or 0))):
        if layer.weights:
            kinds.setdefault(type(layer).__name__, []).append(layer)
    return kinds


def set_rescaling(model: keras.Model, scale: float, offset: float) -> None:
    """What the backbone sees is `rgb * scale + offset` from now on, in this model and in its saved file."""
    layer = model.get_layer("rescaling")
    layer.scale, layer.offset = float(scale), float(offset)
    model.predict_function = None  # a traced graph holds the old constants


def set_temperature(model: keras.Model, temperature: float) -> None:
    """Divide the logits by `temperature` (> 0) from now on, in its saved file too (Guo et al., ICML 2017, eq. 9)."""
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0. Received: {temperature}.")
    model.get_layer("temperature").scale = 1 / float(temperature)
    model.predict_function = None


def save_model(model: keras.Model, path: Path) -> None:
    """Save as `.keras`, whole or not at all."""
    with write_whole(path) as draft:
        model.save(draft)
