"""How does the model get into a browser? As a TensorFlow.js layers model, which nsfwjs loads, written file by file.

The `tensorflowjs` package pins versions that do not install beside current ones. The format is small: `model.json` with
the topology in Keras 2's spelling and a weights manifest, and the weights as bytes in shards (TensorFlow.js,
`tfjs-core/src/io/types.ts` and `tfjs-layers/src/models.ts`).
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from nsfwlib._tensorflow import keras
from nsfwlib.model import class_names, read_weights

SHARD = 4 << 20  # bytes a file: what browsers cache well
DIVISOR = 255  # nsfwjs divides pixels by it before the network sees them
# what TensorFlow.js has, and the settings that it is told; all others must not matter to inference
_LAYERS = {
    *("Activation", "Add", "AveragePooling2D", "BatchNormalization", "Concatenate", "Conv2D", "Dense", "Dropout"),
    *("DepthwiseConv2D", "GlobalAveragePooling2D", "InputLayer", "MaxPooling2D", "Multiply", "ReLU", "Rescaling"),
    *("Reshape", "Softmax", "ZeroPadding2D"),
}
_SETTINGS = {
    *("activation", "axis", "center", "data_format", "depth_multiplier", "dilation_rate", "epsilon", "filters"),
    *("kernel_size", "max_value", "momentum", "negative_slope", "offset", "padding", "pool_size", "rate", "scale"),
    *("strides", "target_shape", "threshold", "units", "use_bias"),
}
_NEUTRAL = {"groups": 1, "keepdims": False}  # settings that TensorFlow.js lacks, with the one value it stands for


def write_tfjs(model: keras.Model, folder: Path, *, quantised: str | None = None) -> None:
    """Write `model` as a layers model into the empty `folder`: `model.json` and shards.

    nsfwjs divides by 255 itself, so the written network takes RGB / 255: a first layer that does just that is left out,
    any other rescaling is adapted. A ValueError where the model holds a layer that TensorFlow.js does not have.

    `quantised` stores kernels as "uint8" or "uint16" with `min` and `scale` per tensor; everything else stays float32,
    as variances of batch normalisation do not survive it.
    """
    layers, output = _layers(model)
    encoded = []
    for layer in model.layers:
        for weight in layer.weights:
            depthwise = isinstance(layer, keras.layers.DepthwiseConv2D) and weight.name == "kernel"
            name, array = "depthwise_kernel" if depthwise else weight.name, np.asarray(weight, np.float32)
            encoded.append(_encode(f"{layer.name}/{name}", array, quantised if array.ndim > 1 else None))
    data = b"".join(tensor for _, tensor in encoded)
    count = max(-(-len(data) // SHARD), 1)
    paths = [f"group1-shard{i + 1}of{count}.bin" for i in range(count)]
    for i, path in enumerate(paths):
        (folder / path).write_bytes(data[i * SHARD : (i + 1) * SHARD])
    source = [model.input._keras_history.operation.name, 0, 0]
    network = {"name": model.name, "layers": layers, "input_layers": [source], "output_layers": [[output, 0, 0]]}
    document = {
        "format": "layers-model",
        "generatedBy": f"keras v{keras.__version__}",
        "convertedBy": "nsfwlib",
        "modelTopology": {
            "keras_version": "2.2.4",  # the spelling, not the version that made it
            "backend": "tensorflow",
            "model_config": {"class_name": "Model", "config": network},
        },
        "weightsManifest": [{"paths": paths, "weights": [spec for spec, _ in encoded]}],
        "userDefinedMetadata": {"class_names": class_names(model)},
    }
    (folder / "model.json").write_text(json.dumps(document), encoding="utf-8")


def _layers(model: keras.Model) -> tuple[list[dict[str, Any]], str]:
    """The layers in Keras 2's spelling, those that do nothing left out, and the name of the last one."""
    described = json.loads(model.to_json())["config"]["layers"]
    missing = sorted({layer["class_name"] for layer in described} - _LAYERS - {"Identity"})
    if missing:
        raise ValueError(
            f"Expected layers that TensorFlow.js has. Received: {', '.join(missing)} in {model.name!r}. Leave the "
            "tfjs formats out, or choose another backbone (InceptionV3, MobileNetV2)."
        )
    stands_for, layers = {}, []  # a layer left out → the one before it
    for layer in described:
        kind, config, name = layer["class_name"], layer["config"], layer["name"]
        sources = [stands_for.get(source, source) for source in _histories(layer["inbound_nodes"])]
        if kind == "Rescaling" and name == described[1]["name"]:  # right after the input
            config = {**config, "scale": config["scale"] * DIVISOR}
        idle = kind == "Rescaling" and np.isclose(config["scale"], 1, atol=1e-12) and config["offset"] == 0
        if kind == "Identity" or idle:
            stands_for[name] = sources[0]
            continue
        nodes = [[[source, 0, 0, {}] for source in sources]] if sources else []
        layers.append({"name": name, "class_name": kind, "config": _config(kind, config), "inbound_nodes": nodes})
    return layers, stands_for.get(name, name)


def _config(kind: str, config: dict[str, Any]) -> dict[str, Any]:
    for setting, value in _NEUTRAL.items():
        if config.get(setting, value) != value:
            raise ValueError(f"TensorFlow.js knows {kind} with {setting}={value} only. Received: {config[setting]}.")
    kept = {"name": config["name"], "trainable": False, "dtype": "float32"}
    if kind == "InputLayer":
        return {**kept, "batch_input_shape": config["batch_shape"], "sparse": False}
    kept |= {setting: value for setting, value in config.items() if setting in _SETTINGS}
    if kept.get("activation") == "silu":
        kept["activation"] = "swish"
    return kept


def _histories(node: Any) -> list[str]:
    """Names of the layers that feed a layer, from Keras 3's description of its call."""
    if isinstance(node, dict):
        if "keras_history" in node:
            return [node["keras_history"][0]]
        node = list(node.values())
    return [name for part in node for name in _histories(part)] if isinstance(node, list) else []


def _encode(name: str, array: np.ndarray, quantised: str | None) -> tuple[dict[str, Any], bytes]:
    spec = {"name": name, "shape": list(array.shape), "dtype": "float32"}
    if quantised is None:
        return spec, array.astype("<f4").tobytes()
    low, scale = float(array.min()), float(np.ptp(array)) / np.iinfo(quantised).max or 1.0
    spec["quantization"] = {"min": low, "scale": scale, "dtype": quantised, "original_dtype": "float32"}
    steps = np.rint((array.astype(np.float64) - low) / scale)
    return spec, steps.astype(np.dtype(quantised).newbyteorder("<")).tobytes()


def read_tfjs(folder: Path) -> keras.Model:
    """What the files in `folder` say, and nothing else, rebuilt in Keras: RGB / 255 (B, S, S, 3) → (B, K)."""
    document = json.loads((Path(folder) / "model.json").read_text(encoding="utf-8"))
    network = document["modelTopology"]["model_config"]["config"]
    weights = read_weights(document["weightsManifest"], lambda path: (Path(folder) / path).read_bytes())
    model = keras.Model.from_config(network)
    for layer in model.layers:
        layer.set_weights(list(weights.get(layer.name, {}).values()))
    return model
