"""Which model is it? One built anew, one of this kit's files, one of 2019, or a foreign one wrapped to our contract.

The contract is `classifier`'s: raw RGB in, probabilities out, class names inside. The files of 2019
(`nsfw.299x299.h5`, `nsfw_mobilenet2.224x224.h5`) hold a layers model without class names, whose scripts divided by 255
outside. Nothing in any file is executed: layers that carry code are refused before Keras sees them.
"""

import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from nsfwlib._tensorflow import keras
from nsfwlib.model.classifier import (
    _CLASSES,
    FEATURES,
    _checked_names,
    _escape,
    assemble,
    class_names as names_of,
    copy_backbone,
    head_dense_layers,
    image_size as size_of,
    set_rescaling,
    with_head,
)
from nsfwlib.model.published import CLASS_NAMES, MODELS as PUBLISHED, load_backbone, published_model

MOST_BYTES = 4 << 30  # of an unpacked model file
# What a network of keras.applications with a head of dense layers is made of; a Lambda is not among them.
_PLAIN_LAYERS = {
    *("Activation", "Add", "Average", "AveragePooling2D", "BatchNormalization", "Concatenate", "Conv2D", "Cropping2D"),
    *("Dense", "DepthwiseConv2D", "Dropout", "Flatten", "Functional", "GlobalAveragePooling2D", "GlobalMaxPooling2D"),
    *("InputLayer", "LayerNormalization", "LeakyReLU", "MaxPooling2D", "Model", "Multiply", "Normalization", "ReLU"),
    *("Rescaling", "Reshape", "SeparableConv2D", "Sequential", "Softmax", "ZeroPadding2D"),
}
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

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no classifier of pictures, or a foreign one without `class_names`.
    """
    if isinstance(model, str) and model == "published":
        _check_same(CLASS_NAMES, class_names)
        return published_model()
    found = _load(Path(model), class_names) if isinstance(model, str | os.PathLike) else model
    try:
        own = names_of(found)
    except ValueError as error:
        if class_names is None:
            raise ValueError(f"{error} Or pass class_names in the order of its outputs, and its rescaling.") from None
        return _wrapped(found, class_names, rescaling)
    _check_same(own, class_names)
    return found


def _check_same(own: Sequence[str], class_names: Sequence[str] | None) -> None:
    if class_names is not None and list(own) != list(class_names):
        raise ValueError(f"The model carries its class names: {', '.join(own)}. Received: {', '.join(class_names)}.")


def _load(path: Path, class_names: Sequence[str] | None) -> keras.Model:
    """A model of this kit or, where a file holds no such one, what Keras makes of it."""
    found = _read(path)
    try:
        return _rebuilt(found, path, class_names) if _is_hdf5(path) else found
    except ValueError:
        return found


def _wrapped(foreign: keras.Model, class_names: Sequence[str], rescaling: tuple[float, float]) -> keras.Model:
    """`foreign` between this kit's rescaling and named classes, after a look at what it answers."""
    size, names = size_of(foreign), _checked_names(class_names)
    if foreign.output_shape != (None, len(names)):
        raise ValueError(
            f"Expected {len(names)} probabilities, one for each of {', '.join(names)}. Received a model whose output "
            f"has the shape {foreign.output_shape}."
        )
    inputs = keras.Input((size, size, 3), name="rgb")
    x = foreign(keras.layers.Rescaling(*rescaling, name="rescaling")(inputs))
    label = ".".join([_CLASSES, *map(_escape, names)])
    wrapped = keras.Model(inputs, keras.layers.Identity(name=label, dtype="float32")(x), name="wrapped")
    answer = wrapped(np.random.default_rng(0).integers(0, 256, (2, size, size, 3)).astype(np.float32), training=False)
    sums = np.asarray(answer).sum(axis=1)
    if np.asarray(answer).min() < -1e-3 or not np.allclose(sums, 1, atol=1e-2):
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
        class_names: K names, at least two, in the order of the outputs.
        weights: of the backbone: "nsfwjs" (published with InceptionV3 and MobileNetV2), "imagenet" (Keras' download),
            None (random), or a model file, whose network is the backbone then: one that `load_model` reads, or any
            `.keras` of square RGB pictures.
        backbone: name of a network in keras.applications.
        head: "logistic" (standardised features, softmax), which `train.train_head` fits, or "original" (Dropout 0.4,
            Dense 256, Dropout 0.5, Dense 128, Dropout 0.25, softmax; the scripts of 2019 lost the first dropout to a
            typo).
        blocks: layers whose pooled outputs feed the head, the deepest last, see `model.find_blocks`; by default the
            last block alone.
        image_size: S; the backbone's own by default.
        rescaling: of a foreign `.keras`: its network is given rgb · scale + offset.

    Raises:
        ValueError: an unknown name, fewer than two classes, or a file of another picture size.
    """
    if weights == "nsfwjs" and backbone not in PUBLISHED:
        raise ValueError(
            "weights='nsfwjs' are an InceptionV3 or a MobileNetV2. "
            f"Received: backbone={backbone!r}. Use weights='imagenet'."
        )
    if weights in (None, "nsfwjs", "imagenet"):
        options = {"head": head, "blocks": blocks, "size": image_size, "imagenet": weights == "imagenet", "seed": seed}
        classifier = assemble(class_names, backbone, **options)
        if weights == "nsfwjs":
            load_backbone(classifier, backbone)
        return classifier
    keras.utils.set_random_seed(seed)
    return with_head(_backbone_of(Path(weights), image_size, rescaling), class_names, blocks=blocks, head=head)


def _backbone_of(path: Path, size: int | None, rescaling: tuple[float, float]) -> keras.Model:
    """The model in a file; a foreign one behind a layer "rescaling" of its own."""
    found = _load(path, None)
    side = size or size_of(found)
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

    No code in the file is ever executed. An `.h5` is wrapped to the contract of this kit; it has no
    `class_names`, which are its K classes in the order of the outputs, by default those of 2019.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no model of this kit, or carries code.
    """
    path = Path(path)
    model = _read(path)
    if _is_hdf5(path):
        return _rebuilt(model, path, class_names)
    names_of(model)
    size_of(model)
    expected = ("rescaling", FEATURES, "temperature")
    if missing := sorted({*expected} - {layer.name for layer in model.layers}):
        raise ValueError(
            f"{path} is no classifier of this kit. Expected layers {', '.join(expected)}. Received one without "
            f"{', '.join(missing)}."
        )
    return model


def _read(path: Path) -> keras.Model:
    """What Keras makes of the file, once it is known to carry no code."""
    if not path.exists():
        raise FileNotFoundError(
            f"There is no model file {path}. Train one with 02_fine_tune, or take the published one: model='published' "
            "to score, weights='nsfwjs' to train."
        )
    if (path / "saved_model.pb").exists():
        raise ValueError(
            f"{path} is a SavedModel folder, which Keras 3 cannot load as a model. Load it with Keras 2 "
            "(`pip install tf-keras`; `tf_keras.models.load_model(folder).save('model.h5')`) and give the `.h5` here, "
            "or use it as it is with `keras.layers.TFSMLayer`."
        )
    if not path.is_file():
        raise ValueError(f"{path} is no regular file but a folder, pipe or device. Expected a `.keras` or `.h5` file.")
    if not _is_hdf5(path) and not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is no model file. Expected `.keras`, or the `.h5` of 2019. Received: another format.")
    config = _checked_config(path) if _is_hdf5(path) else _checked_archive(path)
    try:
        _check_sizes(path, config)
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises many kinds; the first line says which layer or part is at fault
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{path} was not loaded: {reason} Expected a classifier that nsfwlib saved; code in a model file is never "
            "run."
        ) from error


def _is_hdf5(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"


def _check_sizes(path: Path, config: dict[str, Any]) -> None:
    """A ValueError where weights or layers would fill the memory: as stored, Keras' take a byte or more a number."""
    if _is_hdf5(path):
        stored, declared = path.stat().st_size, _declared_bytes(path)
    else:
        with zipfile.ZipFile(path) as archive, archive.open("model.weights.h5") as file:
            stored, declared = sum(part.file_size for part in archive.infolist()), _declared_bytes(file)
    with ThreadPoolExecutor(1) as pool:  # what Keras remembers of these layers, it forgets with the thread
        parameters = pool.submit(_count_parameters, config).result()
    if max(declared, parameters) > stored:
        raise ValueError(
            f"it holds {stored / 1e6:,.1f} MB, of weights that would expand to {declared / 1e6:,.1f} MB and a network "
            f"of {parameters / 1e6:,.1f} million numbers."
        )


def _declared_bytes(file: Path | BinaryIO) -> int:
    """What the arrays of an HDF5 file take in memory, by their shapes."""
    found = []
    with h5py.File(file) as weights:
        weights.visititems(lambda _, item: found.append(item.nbytes) if isinstance(item, h5py.Dataset) else None)
    return sum(found)


def _count_parameters(config: dict[str, Any]) -> int:
    """Of the network that a configuration describes, without making room for any."""
    network = keras.Sequential if config["class_name"] == "Sequential" else keras.Model  # Keras 2's have no module
    with keras.StatelessScope(initialize_variables=False):
        return network.from_config(config["config"]).count_params()


def _checked_archive(path: Path) -> dict[str, Any]:
    """The configuration in a `.keras`; a ValueError where the archive would fill the memory.

    `zipfile` reads no more of a part than it declares.
    """
    with zipfile.ZipFile(path) as archive:
        parts, stored = archive.infolist(), (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        if any(part.compress_type not in stored for part in parts):
            raise ValueError(
                f"{path} is compressed in a way that Keras does not use, so it was not opened. Save it anew."
            )
        whole, limit = sum(part.file_size for part in parts), min(MOST_BYTES, max(64 << 20, 20 * path.stat().st_size))
        if whole > limit:
            raise ValueError(
                f"{path} expands to {whole / 1e6:,.0f} MB, so it was not opened. At most {limit / 1e6:,.0f} MB is "
                "expected of a file of its size. Save the model anew with Keras, which does not compress."
            )
        return json.loads(archive.read("config.json"))


def _checked_config(path: Path) -> dict:
    """The configuration of the model in an `.h5` file, once every layer in it is known to carry no code.

    Raises:
        ValueError: a damaged file, weights without a model, or layers that carry code or are unknown here.
    """
    try:
        with h5py.File(path) as file:
            text = file.attrs.get("model_config")
    except OSError as error:
        raise ValueError(f"{path} is no HDF5 file, or a damaged one ({error}).") from error
    if text is None:
        raise ValueError(
            f"{path} holds weights without a model. Expected a file that `model.save` wrote. Build the classifier with "
            "model.build_classifier, load the weights with Keras, and save it as `.keras`."
        )
    names: set[str] = set()  # of all layers, those in nested models and wrappers included

    def note(part: dict) -> dict:
        names.update([part["class_name"]] if "class_name" in part and _is_layer(part) else [])
        return part

    config = json.loads(text, object_hook=note)
    if strange := sorted(names - _PLAIN_LAYERS):
        raise ValueError(
            f"{path} holds layers that can carry code or are unknown here ({', '.join(strange)}), so it was not "
            f"opened. Expected: {', '.join(sorted(_PLAIN_LAYERS))}."
        )
    return config


def _is_layer(config: dict) -> bool:
    """Initializers and their like have a class name too, as have links between layers; all else counts as a layer."""
    others = (keras.initializers, keras.regularizers, keras.constraints, keras.dtype_policies)
    name = str(config["class_name"])
    return name != "__keras_tensor__" and not any(hasattr(module, name) for module in others)


def _rebuilt(old: keras.Model, path: Path, class_names: Sequence[str] | None) -> keras.Model:
    """A classifier of this kit with the weights of `old`, which was read from `path`.

    `class_names` are K names in the order of the outputs; where K = 5, by default those of 2019.

    Raises:
        ValueError: an architecture or a head that this kit does not know, or K names are needed.
    """
    layers = list(_flat(old))
    dense = [layer for layer in layers if isinstance(layer, keras.layers.Dense)]
    body = layers[: layers.index(dense[0])] if dense else []
    count = old.output_shape[-1]
    if class_names is None and count != len(CLASS_NAMES):
        raise ValueError(f"{path} has {count} outputs and no class names. Pass class_names= with {count} names.")
    names = list(CLASS_NAMES if class_names is None else class_names)
    if len(names) != count:
        raise ValueError(f"class_names must be {count} names, one an output of {path}. Received: {names}.")
    try:
        backbone = _OLD_BACKBONES[sum(type(layer) is keras.layers.Conv2D for layer in body)]
        new = assemble(names, backbone, head=_OLD_HEADS[len(dense)], size=size_of(old))
        copy_backbone(new, body)
        for mine, theirs in zip(head_dense_layers(new), dense, strict=True):
            mine.set_weights(theirs.get_weights())
    except (KeyError, ValueError) as error:
        units = [layer.units for layer in dense]
        raise ValueError(
            f"{path} is a model of another architecture: {len(body)} layers, then dense ones of {units}. Expected "
            f"{' or '.join(_OLD_BACKBONES.values())} with dense layers of 256, 128 and K units, or of K alone."
        ) from error
    if not any(isinstance(layer, keras.layers.Rescaling) for layer in body):
        set_rescaling(new, 1 / 255, 0.0)
    return new


def _flat(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _flat(layer)
        else:
            yield layer
