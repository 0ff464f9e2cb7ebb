"""Is this a Keras 2 file of 2019? Then its weights, in our contract: raw RGB in, class names inside.

Those files (`nsfw.299x299.h5`, `nsfw_mobilenet2.224x224.h5`) hold a layers model without class names, whose scripts
divided by 255 outside. Nothing in them is executed: layers that carry code are refused before Keras sees them.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py

from nsfwlib._tensorflow import keras
from nsfwlib.model.classifier import (
    assemble,
    head_dense_layers,
    image_size,
    layer_weights,
    set_backbone_weights,
    set_rescaling,
)
from nsfwlib.model.published import CLASS_NAMES

# What a network of keras.applications with a head of dense layers is made of; a Lambda is not among them.
PLAIN_LAYERS = {
    *("Activation", "Add", "Average", "AveragePooling2D", "BatchNormalization", "Concatenate", "Conv2D", "Cropping2D"),
    *("Dense", "DepthwiseConv2D", "Dropout", "Flatten", "Functional", "GlobalAveragePooling2D", "GlobalMaxPooling2D"),
    *("InputLayer", "LayerNormalization", "LeakyReLU", "MaxPooling2D", "Model", "Multiply", "Normalization", "ReLU"),
    *("Rescaling", "Reshape", "SeparableConv2D", "Sequential", "Softmax", "ZeroPadding2D"),
}
BACKBONES = {94: "InceptionV3", 35: "MobileNetV2"}  # by the number of Conv2D layers
HEADS = {3: "original", 1: "logistic"}  # by the number of dense layers


def checked_config(path: Path) -> dict:
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
    config = json.loads(text)
    strange = sorted({layer["class_name"] for layer in _layers(config)} - PLAIN_LAYERS)
    if strange:
        raise ValueError(
            f"{path} holds layers that can carry code or are unknown here ({', '.join(strange)}), so it was not "
            f"opened. Expected: {', '.join(sorted(PLAIN_LAYERS))}."
        )
    return config


def _layers(config: dict) -> Iterator[dict]:
    """Every layer, those in nested models and wrappers included."""
    if isinstance(config, dict):
        if "class_name" in config and _is_layer(config):
            yield config
        for value in config.values():
            yield from _layers(value)
    elif isinstance(config, list):
        for value in config:
            yield from _layers(value)


def _is_layer(config: dict) -> bool:
    """Initializers and their like have a class name too, as have links between layers; all else counts as a layer."""
    others = (keras.initializers, keras.regularizers, keras.constraints, keras.dtype_policies)
    name = str(config["class_name"])
    return name != "__keras_tensor__" and not any(hasattr(module, name) for module in others)


def rebuilt(old: keras.Model, path: Path, class_names: Sequence[str] | None) -> keras.Model:
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
    backbone = BACKBONES.get(sum(type(layer) is keras.layers.Conv2D for layer in body))
    head = HEADS.get(len(dense))
    try:
        if backbone is None or head is None:
            raise ValueError("neither of those")
        new = assemble(names, backbone, head=head, size=image_size(old))
        set_backbone_weights(new, layer_weights(body))
        for mine, theirs in zip(head_dense_layers(new), dense, strict=True):
            mine.set_weights(theirs.get_weights())
    except ValueError as error:
        units = [layer.units for layer in dense]
        raise ValueError(
            f"{path} is a model of another architecture: {len(body)} layers, then dense ones of {units}. Expected "
            f"{' or '.join(BACKBONES.values())} with dense layers of 256, 128 and K units, or of K alone."
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
