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

# keras.applications name → (scale, offset) from raw RGB to what its ImageNet weights expect, and its image size
BACKBONES = {
    "InceptionV3": (1 / 127.5, -1.0, 299),
    "MobileNetV2": (1 / 127.5, -1.0, 224),
    "EfficientNetV2B0": (1.0, 0.0, 224),
    "ConvNeXtTiny": (1.0, 0.0, 224),
}
FEATURES = "features"  # the layer of pooled backbone output, where the head begins
_CLASSES = "classes"  # the last layer; its name carries the class names


def _checked_names(class_names: Sequence[str]) -> list[str]:
    names = [str(name) for name in class_names]
    plain = [name.replace("\\", "") for name in names]
    fit = all(0 < len(name) < 256 for name in names) and [table_path(name) for name in plain] == plain
    if len(names) < 2 or len(set(names)) < len(names) or not fit:
        raise ValueError(
            "class_names must be two or more different names, printable and of at most 255 characters. Received: "
            f"{[name[:256] for name in names]}."
        )
    return names


def assemble(
    class_names: Sequence[str],
    backbone: str = "InceptionV3",
    *,
    head: str = "original",
    size: int | None = None,
    imagenet: bool = False,
    seed: int = 0,
) -> keras.Model:
    """The layers of a classifier, its backbone frozen; random weights, or ImageNet's in the backbone.

    Arguments and errors are those of `model.build_classifier`.
    """
    names = _checked_names(class_names)
    if backbone not in BACKBONES:
        raise ValueError(f"backbone must be one of {', '.join(BACKBONES)}. Received: {backbone!r}.")
    scale, offset, usual = BACKBONES[backbone]
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((size or usual, size or usual, 3), name="rgb")
    rescaled = keras.layers.Rescaling(scale, offset, name="rescaling")(inputs)
    body = getattr(keras.applications, backbone)(
        include_top=False, weights="imagenet" if imagenet else None, input_tensor=rescaled
    )
    features = keras.layers.GlobalAveragePooling2D(name=FEATURES)(body.output)
    classifier = keras.Model(inputs, _head(features, names, head), name="classifier")
    freeze_backbone(classifier)
    return classifier


def _head(features: keras.KerasTensor, names: list[str], head: str) -> keras.KerasTensor:
    layers = keras.layers
    plans = {"original": [0.4, 256, 0.5, 128, 0.25], "logistic": []}  # a share to drop, or a number of units
    if head not in plans:
        raise ValueError(f"head must be one of {', '.join(plans)}. Received: {head!r}.")
    x = features
    for i, step in enumerate(plans[head]):
        if step < 1:
            x = layers.Dropout(step, name=f"head_dropout_{i // 2 + 1}")(x)
        else:
            x = layers.Dense(step, activation="relu", name=f"head_dense_{i // 2 + 1}")(x)
    x = layers.Dense(len(names), name="logits")(x)
    x = layers.Rescaling(1.0, name="temperature", dtype="float32")(x)
    x = layers.Softmax(name="probabilities", dtype="float32")(x)
    return layers.Identity(name=".".join([_CLASSES, *map(_escape, names)]), dtype="float32")(x)


def _escape(name: str) -> str:
    """A class name as part of a layer name, which TensorFlow restricts to letters, digits, `_`, `-` and `.`."""
    return re.sub(r"[^A-Za-z0-9-]", lambda match: f"_{ord(match.group()):x}_", name)


def _unescape(part: str) -> str:
    return re.sub(r"_(10[0-9a-f]{4}|[0-9a-f]{1,5})_", lambda match: chr(int(match.group(1), 16)), part)


def class_names(model: keras.Model) -> list[str]:
    """The class names that travel in the model, in the order of its outputs.

    Raises:
        ValueError: the model carries none, or none that can be shown.
    """
    kind, *parts = model.layers[-1].name.split(".")
    if kind != _CLASSES or len(parts) != model.output_shape[-1]:
        raise ValueError(
            f"The model {model.name!r} carries no class names: its last layer is {model.layers[-1].name!r}. Expected "
            "a model made by model.build_classifier."
        )
    return _checked_names([_unescape(part) for part in parts])


def image_size(model: keras.Model) -> int:
    """Side S in pixels of the square pictures that the model takes.

    Raises:
        ValueError: it takes something else.
    """
    shape = model.input_shape
    if not isinstance(shape, tuple) or len(shape) != 4 or shape[1] != shape[2] or not shape[1] or shape[3] != 3:
        raise ValueError(
            f"Expected a model of square RGB pictures (B, S, S, 3). Received: {model.name!r}, which takes {shape}."
        )
    return shape[1]


def head_dense_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The head's Dense layers, from the features to the logits."""
    return [layer for layer in _head_layers(model) if isinstance(layer, keras.layers.Dense)]


def _head_layers(model: keras.Model) -> list[keras.layers.Layer]:
    return model.layers[model.layers.index(_block(model, FEATURES)) + 1 :]


def head_model(model: keras.Model) -> keras.Model:
    """The head alone, (B, D) features → (B, K) probabilities, *sharing* its layers with `model`.

    Training it on cached features trains the classifier's head.
    """
    x = inputs = keras.Input(model.get_layer(FEATURES).output.shape[1:], name=FEATURES)
    for layer in _head_layers(model):
        x = layer(x)
    return keras.Model(inputs, x, name="head")


def reset_head(model: keras.Model, *, seed: int) -> None:
    """Fresh initial weights for the head (Glorot and Bengio 2010; biases zero), determined by `seed` alone."""
    for i, layer in enumerate(head_dense_layers(model)):
        kernel = keras.initializers.GlorotUniform(seed + i)(layer.kernel.shape)
        layer.set_weights([kernel, np.zeros(layer.bias.shape)])


def seed_dropout(model: keras.Model, *, seed: int) -> None:
    """Make the next training draw the same dropout masks, however often the layers have drawn before."""
    for i, layer in enumerate(_head_layers(model)):
        if isinstance(layer, keras.layers.Dropout):
            layer.seed_generator.state.assign([seed, i])


def feature_model(model: keras.Model, blocks: Sequence[str]) -> keras.Model:
    """The backbone up to `blocks`: RGB 0–255 (B, S, S, 3) → a list of average-pooled outputs (B, D_block).

    Raises:
        ValueError: the model has no layer of that name.
    """
    pooled = []
    for block in blocks:
        output = block_output(model, block)
        pooled.append(output if len(output.shape) == 2 else keras.layers.GlobalAveragePooling2D()(output))
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


def last_block(model: keras.Model) -> str:
    """Name of the last block of the backbone, whose pooled output feeds the head ("mixed10" of InceptionV3)."""
    return model.get_layer(FEATURES).input._keras_history.operation.name


def freeze_backbone(model: keras.Model) -> None:
    """Leave only the head trainable. Compile again afterwards."""
    unfreeze_from(model, FEATURES)


def unfreeze_from(model: keras.Model, block: str) -> None:
    """Make the backbone trainable after `block` ("mixed0" … "mixed10"), BatchNorm excepted.

    BatchNorm keeps its statistics and its offsets: small batches of a new domain would wreck them, and under Keras 3
    `training=False` does not protect them in `fit`; only `trainable = False` on each layer does. Compile again
    afterwards.

    Raises:
        ValueError: the backbone has no layer of that name.
    """
    last = model.layers.index(_block(model, block))
    for i, layer in enumerate(model.layers):
        layer.trainable = i > last and not isinstance(layer, keras.layers.BatchNormalization)


def backbone_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers before the head."""
    return model.layers[: model.layers.index(_block(model, FEATURES))]


def by_kind(layers: Sequence[keras.layers.Layer]) -> dict[str, list[keras.layers.Layer]]:
    """Those of `layers` that have weights, by kind of layer, in the order of their numbers.

    Automatic names such as `conv2d_57` depend on what else the process has built; their order does not.
    """

    def number(layer: keras.layers.Layer) -> tuple[str, int]:
        stem, digits = re.fullmatch(r"(.*?)_?(\d*)", layer.name).groups()
        return stem, int(digits or 0)

    kinds: dict[str, list[keras.layers.Layer]] = {}
    for layer in sorted(layers, key=number):
        if layer.weights:
            kinds.setdefault(type(layer).__name__, []).append(layer)
    return kinds


def copy_backbone(model: keras.Model, body: Sequence[keras.layers.Layer]) -> None:
    """Give the backbone of `model` the weights of another one, of the layers `body`.

    Raises:
        ValueError: they are of another architecture; nothing was copied.
    """
    own, other = by_kind(backbone_layers(model)), by_kind(body)
    shapes = [
        {kind: [[w.shape for w in layer.weights] for layer in layers] for kind, layers in part.items()}
        for part in (own, other)
    ]
    if shapes[0] != shapes[1]:
        counts = [{kind: len(layers) for kind, layers in part.items()} for part in shapes]
        raise ValueError(
            f"The weights are of another architecture. Expected layers {counts[0]}. Received: {counts[1]}."
        )
    for kind, layers in own.items():
        for mine, source in zip(layers, other[kind], strict=True):
            mine.set_weights(source.get_weights())


def set_rescaling(model: keras.Model, scale: float, offset: float) -> None:
    """What the backbone sees is `rgb * scale + offset` from now on, in this model and in its saved file."""
    layer = model.get_layer("rescaling")
    layer.scale, layer.offset = float(scale), float(offset)
    model.predict_function = None  # a traced graph holds the old constants


def set_temperature(model: keras.Model, temperature: float) -> None:
    """Divide the logits by `temperature` (> 0) from now on, in this model and in its saved file.

    Guo et al. 2017, "On Calibration of Modern Neural Networks", eq. 9.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0. Received: {temperature}.")
    model.get_layer("temperature").scale = 1 / float(temperature)
    model.predict_function = None


def save_model(model: keras.Model, path: Path) -> None:
    """Save as `.keras`, whole or not at all."""
    with write_whole(path) as draft:
        model.save(draft)
