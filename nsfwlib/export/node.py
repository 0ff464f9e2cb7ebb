"""What does nsfwjs itself answer? The web export loaded by nsfwjs in Node, from a loopback server."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock
from platformdirs import user_cache_path

from nsfwlib.files import writable_folder
from nsfwlib.model import PACKAGE, VERSION, run_tool

_TFJS = "4.22.0"
PACKAGES = (
    f"{PACKAGE}@{VERSION}", f"@tensorflow/tfjs@{_TFJS}", f"@tensorflow/tfjs-backend-wasm@{_TFJS}",
)  # fmt: skip
_SCRIPT = Path(__file__).with_suffix(".js")


class Answers(NamedTuple):
    """What nsfwjs said of some pictures."""

    probabilities: np.ndarray  # float32 (N, K)
    milliseconds: np.ndarray  # float (N,), the first one with what is prepared once


def install_nsfwjs(*, cache_dir: Path | None = None) -> Path:
    """`node_modules` with nsfwjs and TensorFlow.js in `cache_dir` (default: the user's cache), fetched once by npm.

    About 350 MB. No install script runs.

    Raises:
        RuntimeError: Node or npm is missing, or npm fails.
    """
    folder = (user_cache_path("nsfwlib") if cache_dir is None else Path(cache_dir)) / "nsfwjs-node"
    modules, done = folder / "node_modules", folder / "installed.json"
    writable_folder(folder, "cache_dir")
    with FileLock(f"{folder}.lock"):
        if done.exists() and json.loads(done.read_text()) == list(PACKAGES):
            return modules
        command = ["install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder), *PACKAGES]
        (folder / "package.json").write_text('{"private": true}')
        problem = f"npm could not install {', '.join(PACKAGES)}. Check the network and the registry"
        run_tool("npm", command, problem, cwd=folder)
        done.write_text(json.dumps(PACKAGES))
    return modules


def ask_nsfwjs(model: Path | str, pictures: Sequence[np.ndarray], *, size: int, node_modules: Path) -> Answers:
    """What nsfwjs answers, with the model in `model` loaded by `nsfwjs.load(url, {size})`.

    Args:
        model: a folder with `model.json`, or "InceptionV3": the one that nsfwjs brings along.
        pictures: uint8 (H, W, 3); nsfwjs resizes those that are not `size` × `size`, aligning corners.
        size: side S in pixels that the model takes.
        node_modules: as from `install_nsfwjs`.

    Raises:
        RuntimeError: Node is missing, or nsfwjs does not load the model.
    """
    with tempfile.TemporaryDirectory() as folder:
        manifest = []
        for i, picture in enumerate(pictures):
            (Path(folder) / f"{i}.rgb").write_bytes(np.ascontiguousarray(picture, np.uint8).tobytes())
            manifest.append({"file": f"{i}.rgb", "height": picture.shape[0], "width": picture.shape[1]})
        (Path(folder) / "manifest.json").write_text(json.dumps(manifest))
        model = model if model == "InceptionV3" else str(Path(model).absolute())
        command, problem = [str(_SCRIPT), model, str(size), "manifest.json"], f"nsfwjs did not answer with {model}"
        modules = str(Path(node_modules).absolute())
        said = run_tool("node", command, problem, cwd=folder, NODE_PATH=modules)
    answers = json.loads(said[said.rindex('{"backend"') :])
    return Answers(np.array(answers["probabilities"], np.float32), np.array(answers["milliseconds"]))
