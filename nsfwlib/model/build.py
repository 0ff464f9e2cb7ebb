"""Which model is it? One built anew, one of this kit's files, one of 2019, or a foreign one wrapped to our contract.

The contract is `classifier`'s. The files of 2019 (`nsfw.299x299.h5`, `nsfw_mobilenet2.224x224.h5`) hold a layers model
without class names, whose scripts divided by 255 outside. Nothing in any file is executed, see `guard`.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np

from nsfwlib._tensorflow import keras
from nsfwlib.model import classifier
from nsfwlib.model.guard import OLD, read_model
from nsfwlib.model.published import CLASS_NAMES, MODELS as PUBLISHED, fetch_package, read_layers_model

SIZES = {"InceptionV3": 299, "InceptionResNetV2": 299, "Xception": 299}  # of pictures; 224 for all others
_OLD_BACKBONES = {94: "InceptionV3", 35: "MobileNetV2"}  # by the number of Conv2D layers
_OLD_HEADS = {3: "original", 1: "logistic"}  # by the number of dense layers


def resolve_model(
    model: keras.Model | Path | str,
    *,
    class_names: Sequence[str] | None = None,
    rescaling: tuple[float, float] = (1 / 255, 0.0),
) -> keras.Model:
    """A classifier of this kit's kind: loaded, fetched, or a foreign one wrapped with its class names.

    Args:
        model: "published", a model file (`.keras`; with `class_names` Keras' old `.h5`, too), or a loaded model.
        class_names: of a foreign model, in the order of its outputs.
        rescaling: of a foreign model: it is given rgb · scale + offset.

    A ValueError where it is no classifier of pictures, or a foreign one without `class_names`.
    """
    found = published_model() if model == "published" else model
    if isinstance(found, str | os.PathLike):
        found = _load(Path(found), class_names)
    try:
        own = classifier.class_names(found)
    except ValueError as error:
        if class_names is None:
            raise ValueError(f"{error} Or pass class_names in the order of its outputs, and its rescaling.") from None
        return _wrapped(found, class_names, rescaling)
    if class_names is not None and own != list(class_names):
        raise ValueError(f"The model carries its class names: {', '.join(own)}. Received: {', '.join(class_names)}.")
    return found


def _load(path: Path, class_names: Sequence[str] | None) -> keras.Model:
    """A model of this kit or, where a file holds no such one, what Keras makes of it."""
    found = read_model(path)
    try:
        return _rebuilt(found, path, class_names) if path.suffix in OLD else found
    except ValueError:
        return found


def _wrapped(foreign: keras.Model, class_names: Sequence[str], rescaling: tuple[float, float]) -> keras.Model:
    """`foreign` between this kit's rescaling and named classes, after a look at what it answers."""
    size, names = classifier.image_size(foreign), classifier.checked_names(class_names)
    if foreign.output_shape != (None, len(names)):
        wanted = f"{len(names)} probabilities, one for each of {', '.join(names)}"
        raise ValueError(f"Expected {wanted}. Received a model whose output has the shape {foreign.output_shape}.")
    inputs = keras.Input((size, size, 3), name="rgb")
    rescaled = keras.layers.Rescaling(*rescaling, name="rescaling")(inputs)
    wrapped = keras.Model(inputs, classifier.named(foreign(rescaled), names), name="wrapped")
    pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 3)).astype(np.float32)
    answer = np.asarray(wrapped(pixels, training=False))
    sums = answer.sum(axis=1)
    if answer.min() < -1e-3 or not np.allclose(sums, 1, atol=1e-2):
        raise ValueError(f"Expected probabilities, which sum to 1. Received answers that sum to {sums.round(2)}.")
    return wrapped


def build_classifier(
    class_names: Sequence[str],
    *,
    weights: str | Path | None = "nsfwjs",
    backbone: str = "InceptionV3",
    head: str = "original",
    blocks: Sequence[str] | None = None,
    image_size: int | None = None,
    rescaling: tuple[float, float] = (1 / 255, 0.0),
    seed: int = 0,
) -> keras.Model:
    """A classifier with a fresh head on a frozen backbone: uint8 or float RGB 0–255 (B, S, S, 3) → (B, K).

    Args:
        class_names: K names, at least two, in the order of the outputs; `blocks` are as in `model.with_head`.
        weights: of the backbone: "nsfwjs" (published with InceptionV3 and MobileNetV2), "imagenet" (Keras' download),
            None (random), or a model file, whose network is the backbone then: one that `load_model` reads, or any
            `.keras` of square RGB pictures.
        backbone: name of a network in keras.applications.
        head: "logistic" (standardised features, softmax), which `train.train_head` fits, or "original" (Dropout 0.4,
            Dense 256, Dropout 0.5, Dense 128, Dropout 0.25, softmax; those of 2019 lost the first dropout to a typo).
        image_size: S; the backbone's own by default; a ValueError where a file takes another.
        rescaling: of a foreign `.keras`: its network is given rgb · scale + offset.
    """
    if weights == "nsfwjs" and backbone not in PUBLISHED:
        raise ValueError(f"weights='nsfwjs' are {' or '.join(PUBLISHED)}. Received: {backbone=}. Use 'imagenet'.")
    names = classifier.checked_names(class_names)
    keras.utils.set_random_seed(seed)
    if weights in (None, "nsfwjs", "imagenet"):
        body = _network(backbone, image_size, weights="imagenet" if weights == "imagenet" else None)
    else:
        body = _backbone_of(Path(weights), image_size, rescaling)
    built = classifier.with_head(body, names, blocks=blocks, head=head)
    if weights == "nsfwjs":
        _load_published(built, backbone)
    return built


def _network(backbone: str, size: int | None, *, weights: str | None) -> keras.Model:
    """A network of keras.applications behind the rescaling from raw RGB to what its ImageNet weights expect."""
    network = getattr(keras.applications, backbone, None)
    if not isinstance(network, FunctionType):
        known = [name for name, value in vars(keras.applications).items() if isinstance(value, FunctionType)]
        raise ValueError(f"backbone must be one of {', '.join(known)}. Received: {backbone!r}.")
    pixels = np.array([[0.0, 0, 0], [255, 255, 255], [255, 0, 0]])[:, None, None]
    black, white, red = sys.modules[network.__module__].preprocess_input(pixels)[:, 0, 0]
    if np.ptp(black) or np.ptp(white) or red[0] != white[0]:
        raise ValueError(
            f"The ImageNet weights of {backbone} want channels of different ranges or in another order, which one "
            "rescaling does not give. Expected a network such as InceptionV3, MobileNetV2 or EfficientNetV2B0."
        )
    size = size or SIZES.get(backbone, 224)
    inputs = keras.Input((size, size, 3), name="rgb")
    scale, offset = float(white[0] - black[0]) / 255, float(black[0])
    rescaled = keras.layers.Rescaling(scale, offset, name="rescaling")(inputs)
    keras.layers.Rescaling(1.0)  # takes the automatic name "rescaling", which a layer of the network would have
    return keras.Model(inputs, network(include_top=False, weights=weights, input_tensor=rescaled).output)


def published_model(backbone: str = "InceptionV3") -> keras.Model:
    """The published classifier: "InceptionV3" (the model of 2019, S = 299) or "MobileNetV2" (smaller, S = 224).

    The first call fetches 25 MB with npm into the user's cache folder; later calls work offline. A RuntimeError where
    npm is missing, the package cannot be fetched, or it is not the pinned one.
    """
    if backbone not in PUBLISHED:
        raise ValueError(f"backbone must be one of {', '.join(PUBLISHED)}. Received: {backbone!r}.")
    built = build_classifier(CLASS_NAMES, weights=None, backbone=backbone)
    tensors = _load_published(built, backbone)
    for i, layer in enumerate(classifier.head_layers(built, keras.layers.Dense)):
        layer.set_weights(list(tensors[f"dense_{i + 1}"].values()))
    return built


def _load_published(built: keras.Model, backbone: str) -> dict[str, dict[str, np.ndarray]]:
    """Load the published backbone and its rescaling into a classifier of that kind; returns all tensors by layer."""
    tensors = read_layers_model(fetch_package(), PUBLISHED[backbone])[1]
    numbered = {"Conv2D": "conv2d", "BatchNormalization": "batch_normalization"}  # InceptionV3's have no other names
    for kind, layers in classifier.by_kind(built.layers[: -len(classifier.head_layers(built))]).items():
        for i, layer in enumerate(layers, start=1):
            name = f"{numbered[kind]}_{i}" if backbone == "InceptionV3" else layer.name
            layer.set_weights(list(tensors[name].values()))
    classifier.set_rescaling(built, 1 / 255, 0.0)  # the scripts of 2019 divided by 255
    return tensors


def _backbone_of(path: Path, size: int | None, rescaling: tuple[float, float]) -> keras.Model:
    """The model in a file; a foreign one behind a layer "rescaling" of its own."""
    found = _load(path, None)
    side = size or classifier.image_size(found)
    if found.input_shape[1] not in (None, side):
        raise ValueError(f"{path} takes pictures of {found.input_shape[1]}. Received: image_size={side}. Leave it out.")
    if any(layer.name == "rescaling" for layer in found.layers):
        return found
    inputs = keras.Input((side, side, 3), name="rgb")
    rescale = keras.layers.Rescaling(*rescaling, name="rescaling")

    def call(layer: keras.layers.Layer, first: Any, *others: Any, **options: Any) -> Any:
        return layer(rescale(first) if first is inputs else first, *others, **options)

    body = keras.models.clone_model(found, inputs, call_function=call)
    body.set_weights(found.get_weights())
    return body


def load_model(path: Path, *, class_names: Sequence[str] | None = None) -> keras.Model:
    """Load a classifier: a `.keras` that `save_model` wrote, or a Keras 2 `.h5` of 2019.

    No code in the file is ever executed: a ValueError where it carries any, or is no model of this kit. An `.h5` has no
    `class_names`, which are its K classes in the order of the outputs, by default those of 2019.
    """
    path = Path(path)
    model = read_model(path)
    if path.suffix in OLD:
        return _rebuilt(model, path, class_names)
    classifier.class_names(model)
    classifier.image_size(model)
    if missing := sorted({"rescaling", classifier.FEATURES, "temperature"} - {layer.name for layer in model.layers}):
        raise ValueError(f"Expected a classifier of this kit. Received: {path}, without layers {', '.join(missing)}.")
    return model


def _rebuilt(old: keras.Model, path: Path, class_names: Sequence[str] | None) -> keras.Model:
    """A classifier with the weights of `old`, read from `path`; a ValueError where its architecture is unknown here."""
    layers, names = _flat(old), CLASS_NAMES if class_names is None else class_names
    dense = [layer for layer in layers if isinstance(layer, keras.layers.Dense)]
    body = layers[: layers.index(dense[0])] if dense else []
    if len(names) != (count := old.output_shape[-1]):
        wanted = f"class_names must be {count} names, one an output"
        raise ValueError(f"{path} has {count} outputs and no class names: {wanted}. Received: {class_names}.")
    try:
        backbone = _OLD_BACKBONES[sum(type(layer) is keras.layers.Conv2D for layer in body)]
        head = _OLD_HEADS[len(dense)]
        new = build_classifier(names, weights=None, backbone=backbone, head=head, image_size=classifier.image_size(old))
        own = classifier.by_kind(new.layers[: -len(classifier.head_layers(new))])
        own["Dense"] = classifier.head_layers(new, keras.layers.Dense)
        theirs = classifier.by_kind(body) | {"Dense": dense}
        for kind in own | theirs:
            for mine, other in zip(own[kind], theirs[kind], strict=True):
                mine.set_weights(other.get_weights())
    except (KeyError, ValueError) as error:
        units = [layer.units for layer in dense]
        raise ValueError(
            f"{path} is a model of another architecture: {len(body)} layers, then dense ones of {units}. Expected "
            f"{' or '.join(_OLD_BACKBONES.values())} with dense layers of 256, 128 and K units, or of K alone."
        ) from error
    if not any(isinstance(layer, keras.layers.Rescaling) for layer in body):
        classifier.set_rescaling(new, 1 / 255, 0.0)
    return new


def _flat(model: keras.Model) -> list[keras.layers.Layer]:
    return [each for one in model.layers for each in (_flat(one) if isinstance(one, keras.Model) else [one])]
