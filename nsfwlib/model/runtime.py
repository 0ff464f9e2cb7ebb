"""How does a converted model answer without TensorFlow, and where is its file kept?"""

import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from nsfwlib.files import file_hash

Forward = Callable[[np.ndarray], list[np.ndarray]]
_GPUS = ("/dev/nvidia0", "/dev/dxg", "/dev/kfd")  # NVIDIA, NVIDIA under WSL, AMD
# the same answers as on a CPU: neither TensorFloat-32 nor a phone's half precision
_PROVIDERS = {"CUDAExecutionProvider": {"use_tf32": 0}, "CPUExecutionProvider": {}}


def onnx_usable() -> bool:
    """Is ONNX Runtime installed, and a CPU what there is to compute on?"""
    return importlib.util.find_spec("onnxruntime") is not None and not any(map(os.path.exists, _GPUS))


def require_onnx() -> ModuleType:
    """onnxruntime.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ImportError("runtime='onnxruntime' needs onnxruntime. Run: pip install 'nsfwlib[onnx]'") from None
    return onnxruntime


def kept_path(cache_dir: Path, identities: Sequence[str], outputs: Sequence[str] = ("probabilities",)) -> Path:
    """Where the ONNX file of these outputs is kept; `identities` are `model.model_identity` of each."""
    name = "-".join(f"{output}-{identity}" for output, identity in zip(outputs, identities, strict=True))
    return Path(cache_dir) / "onnx" / f"{name}.onnx"


def open_onnx_file(path: Path, outputs: Sequence[str] = ("probabilities",), *, threads: int | None = None) -> Forward:
    """A function from RGB 0–255, uint8 or float32 (B, S, S, 3), to a list of float32 arrays, one an output.

    Raises:
        ImportError: onnxruntime is not installed.
        RuntimeError: the file does not open, or is not as it was written: then it is gone, and converted anew by the
            next call.
    """
    onnxruntime = require_onnx()
    if path.exists() and kept_hash(path) not in ("", file_hash(path)):
        path.unlink()
        raise RuntimeError(f"{path} is damaged and was removed. Run again: the model is converted anew.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or os.cpu_count() or 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the decoders need the cores
    providers = [(name, _PROVIDERS[name]) for name in _PROVIDERS if name in onnxruntime.get_available_providers()]
    try:
        session = onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # of several kinds, none of them documented
        raise RuntimeError(
            f"{path} could not be opened and was kept: {error} Free memory and run again, or use runtime='tensorflow'; "
            "if nothing helps, delete the file, and the model is converted anew."
        ) from error
    return lambda pixels: session.run(list(outputs), {"pixels": pixels.astype(np.float32, copy=False)})


def keep_file(fresh: Path, path: Path) -> None:
    """Move a converted file to its place, its sha256 noted beside it; files of older versions have no such note."""
    if not path.exists():  # another process may have been first
        path.with_suffix(".sha256").write_text(file_hash(fresh))
        fresh.replace(path)


def kept_hash(path: Path) -> str:
    """What `keep_file` noted of the file; empty where there is no note."""
    note = path.with_suffix(".sha256")
    return note.read_text() if note.exists() else ""
