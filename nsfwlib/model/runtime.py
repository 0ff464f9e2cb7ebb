"""How does a converted model answer without TensorFlow, and where are its files kept? By OpenVINO, on the processor.

Measured on two cores with the published InceptionV3 (AVX-512 with VNNI and BF16), processor seconds a picture: float32
0.118, bfloat16 0.059, int8 0.033. The first answer comes a second after the process started, without TensorFlow.
"""

import hashlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from nsfwlib.files import file_hash

Forward = Callable[[np.ndarray], list[np.ndarray]]
_GPUS = ("/dev/nvidia0", "/dev/dxg", "/dev/kfd")  # NVIDIA, NVIDIA under WSL, AMD


def openvino_usable() -> bool:
    """Is OpenVINO installed, and a CPU what there is to compute on?"""
    return importlib.util.find_spec("openvino") is not None and not any(map(os.path.exists, _GPUS))


def require_openvino() -> ModuleType:
    """openvino, kept from reporting to its makers.

    Raises:
        ImportError: it is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # then it and nncf do without
    try:
        import openvino
    except ImportError:
        raise ImportError("runtime='openvino' needs OpenVINO. Run: pip install 'nsfwlib[openvino]'") from None
    return openvino


def has_bfloat16() -> bool:
    """Does the processor compute in bfloat16 itself? Elsewhere it would be no faster than float32."""
    return "BF16" in require_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def kept_path(cache_dir: Path, identities: Sequence[str], outputs: Sequence[str] = ("probabilities",)) -> Path:
    """Where the converted model of these outputs is kept, a `.xml` with its weights in a `.bin` beside it.

    `identities` are `model.model_identity` of each output.
    """
    name = "-".join(f"{output}-{identity}" for output, identity in zip(outputs, identities, strict=True))
    return Path(cache_dir) / "openvino" / f"{name}.xml"


def open_converted(
    path: Path, outputs: Sequence[str] = ("probabilities",), *, threads: int | None = None, bfloat16: bool = False
) -> Forward:
    """A function from RGB 0–255, uint8 or float32 (B, S, S, 3), to a list of float32 arrays, one an output.

    Args:
        path: `kept_path`.
        outputs: their names, in the order in which they are to come.
        threads: that compute; as many as there are cores by default.
        bfloat16: compute in it instead of float32.

    Raises:
        ImportError: OpenVINO is not installed.
        RuntimeError: the file does not open, or is not as it was written: then it is gone, and converted anew by the
            next call.
    """
    openvino = require_openvino()
    if path.exists() and kept_hash(path) not in ("", _hash(path)):
        path.unlink()
        raise RuntimeError(f"{path} is damaged and was removed. Run again: the model is converted anew.")
    how = {
        "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
        "INFERENCE_NUM_THREADS": threads or os.cpu_count() or 1,
        "PERFORMANCE_HINT": "LATENCY",  # one batch at a time, all threads on it: the decoders need the memory
    }
    try:
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(path), "CPU", how)
    except Exception as error:  # of several kinds, none of them documented
        raise RuntimeError(
            f"{path} could not be opened and was kept: {error} Free memory and run again, or use runtime='tensorflow'; "
            "if nothing helps, delete the file, and the model is converted anew."
        ) from error

    def forward(pixels: np.ndarray) -> list[np.ndarray]:
        found: Any = compiled(pixels.astype(np.float32, copy=False))
        return [found[name] for name in outputs]

    return forward


def keep_files(fresh: Path, path: Path) -> None:
    """Move a converted model to its place, the `.xml` last, its sha256 noted beside it."""
    if not path.exists():  # another process may have been first
        path.with_suffix(".sha256").write_text(_hash(fresh))
        fresh.with_suffix(".bin").replace(path.with_suffix(".bin"))
        fresh.replace(path)


def kept_hash(path: Path) -> str:
    """What `keep_files` noted of the files; empty where there is no note."""
    note = path.with_suffix(".sha256")
    return note.read_text() if note.exists() else ""


def _hash(path: Path) -> str:
    parts = [file_hash(part) for part in (path, path.with_suffix(".bin")) if part.exists()]
    return hashlib.sha256("".join(parts).encode()).hexdigest()
