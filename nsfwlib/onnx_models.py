"""How does a model answer within a second? As an ONNX file made once, with a note of what it is: no TensorFlow needed.

Importing TensorFlow and building InceptionV3 takes ten seconds; opening its ONNX file takes one.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

from nsfwlib import published

Forward = Callable[[np.ndarray], list[np.ndarray]]

_GPUS = ("/dev/nvidia0", "/dev/dxg", "/dev/kfd")  # NVIDIA, NVIDIA under WSL, AMD
# the same answers as on a CPU: neither TensorFloat-32 nor a phone's half precision
_PROVIDERS = {"CUDAExecutionProvider": {"use_tf32": 0}, "CPUExecutionProvider": {}}


class Kept(NamedTuple):
    """A converted classifier. `identity` is `engine.identity` of the model it was made from."""

    class_names: list[str]
    size: int
    identity: str


def usable() -> bool:
    """Is ONNX Runtime installed, and a CPU what there is to compute on?"""
    return importlib.util.find_spec("onnxruntime") is not None and not any(map(os.path.exists, _GPUS))


def require() -> ModuleType:
    """onnxruntime.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ImportError("engine='onnxruntime' needs onnxruntime. Run: pip install 'nsfwlib[onnx]'") from None
    return onnxruntime


def convertible() -> bool:
    """Is all there that `engine.onnx_file` needs?"""
    return all(importlib.util.find_spec(name) is not None for name in ("onnx", "tf2onnx"))


def path_of(cache_dir: Path, identities: Sequence[str], outputs: Sequence[str] = ("probabilities",)) -> Path:
    """Where the ONNX file of these outputs is kept; `identities` are `engine.identity` of each."""
    name = "-".join(f"{output}-{identity}" for output, identity in zip(outputs, identities, strict=True))
    return Path(cache_dir) / "onnx" / f"{name}.onnx"


def open_file(path: Path, outputs: Sequence[str] = ("probabilities",), *, threads: int | None = None) -> Forward:
    """A function from RGB 0–255, uint8 or float32 (B, S, S, 3), to a list of float32 arrays, one an output.

    Raises:
        ImportError: onnxruntime is not installed.
        RuntimeError: the file is damaged. It is gone then: the next call converts the model anew.
    """
    onnxruntime = require()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or os.cpu_count() or 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the decoders need the cores
    providers = [(name, _PROVIDERS[name]) for name in _PROVIDERS if name in onnxruntime.get_available_providers()]
    try:
        session = onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # of several kinds, none of them documented
        path.unlink(missing_ok=True)
        raise RuntimeError(f"{path} is damaged and was removed. Run again: the model is converted anew.") from error
    return lambda pixels: session.run(list(outputs), {"pixels": pixels.astype(np.float32, copy=False)})


def key_of(model: Path | str) -> str:
    """What a model given by name or file is known by: 32 hex digits that change with its content."""
    if model == "published":
        return hashlib.sha256(f"InceptionV3 {published.VERSION} {published.INTEGRITY}".encode()).hexdigest()[:32]
    with Path(model).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def recall(cache_dir: Path, key: str) -> Kept | None:
    """What was noted under `key`, if its ONNX file is there."""
    note = Path(cache_dir) / "onnx" / f"{key}.json"
    try:
        kept = Kept(**json.loads(note.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):  # none, cut short, or another version's
        return None
    return kept if path_of(cache_dir, [kept.identity]).exists() else None


def note(cache_dir: Path, key: str, kept: Kept) -> None:
    """Remember that the model known as `key` is the one converted to `kept`."""
    path = Path(cache_dir) / "onnx" / f"{key}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(kept._asdict()), encoding="utf-8")
    partial.replace(path)
