"""How does a converted model answer without TensorFlow, and how is it found again?

A model given by name or file is converted to ONNX at its first use where that can be done: from then on it answers
without TensorFlow, which alone takes ten seconds to start.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from platformdirs import user_cache_path
from tqdm.auto import tqdm

from nsfwlib import runs
from nsfwlib.model.published import INTEGRITY, VERSION

if TYPE_CHECKING:
    import keras

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
        RuntimeError: the file does not open. If it is damaged it is gone: the next call converts the model anew.
    """
    onnxruntime = require_onnx()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or os.cpu_count() or 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the decoders need the cores
    providers = [(name, _PROVIDERS[name]) for name in _PROVIDERS if name in onnxruntime.get_available_providers()]
    try:
        session = onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # of several kinds, none of them documented
        raise _unopened(path, error) from error
    return lambda pixels: session.run(list(outputs), {"pixels": pixels.astype(np.float32, copy=False)})


def keep_file(fresh: Path, path: Path) -> None:
    """Move a converted file to its place, its sha256 noted beside it; files of older versions have no such note."""
    path.with_suffix(".sha256").write_text(_sha256(fresh))
    fresh.replace(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unopened(path: Path, error: Exception) -> RuntimeError:
    """What to say of a file that does not open; one that is not as it was written is removed."""
    note = path.with_suffix(".sha256")
    if path.exists() and note.exists() and note.read_text() != _sha256(path):
        path.unlink()
        return RuntimeError(f"{path} is damaged and was removed. Run again: the model is converted anew.")
    return RuntimeError(
        f"{path} could not be opened and was kept: {error} Free memory and run again, or use runtime='tensorflow'; if "
        "nothing helps, delete the file, and the model is converted anew."
    )


def file_key(model: Path | str) -> str:
    """What a model given by name or file is known by: 32 hex digits that change with its content."""
    if model == "published":
        return hashlib.sha256(f"InceptionV3 {VERSION} {INTEGRITY}".encode()).hexdigest()[:32]
    return _sha256(Path(model))[:32]


class Ready(NamedTuple):
    """A model that can score, known by `model_identity`; `classifier` is None where its ONNX file is all it takes."""

    class_names: list[str]
    size: int
    identity: str
    cache_dir: Path
    classifier: keras.Model | None

    def onnx_file(self) -> Path:
        """Where its ONNX file is, if it was converted."""
        return kept_path(self.cache_dir, [self.identity])

    def forward(self, runtime: str) -> Forward:
        """What computes; see `model.forward_pass`."""
        if self.classifier is None:
            return open_onnx_file(self.onnx_file())
        from nsfwlib.model.forward import forward_pass

        return forward_pass(self.classifier, runtime=runtime, cache_dir=self.cache_dir)


def make_ready(
    model: keras.Model | Path | str,
    *,
    runtime: str,
    cache_dir: Path | None = None,
    class_names: Sequence[str] | None = None,
    rescaling: tuple[float, float] = (1 / 255, 0.0),
    progress: bool = True,
) -> Ready:
    """`resolve_model`, or what was noted of the same name or file when it was converted.

    Args:
        model: as in `resolve_model`, as are `class_names`, `rescaling` and the errors.
        runtime: "tensorflow" never converts; "onnxruntime" and "auto" do what is not wrapped, on a CPU.
        cache_dir: where converted models are kept; the user's cache folder by default.
        progress: show that a model is being converted.

    Raises:
        ImportError: ONNX Runtime is asked for and not installed.
    """
    if runtime == "onnxruntime":
        require_onnx()
    cache_dir = Path(cache_dir or user_cache_path("nsfwlib"))
    given_by_name = isinstance(model, str | os.PathLike) and (model == "published" or Path(model).is_file())
    convert = runtime != "tensorflow" and given_by_name and class_names is None and onnx_usable()
    note = cache_dir / "onnx" / f"{file_key(model)}.json" if convert else None
    if note and (known := _noted(note, cache_dir)):
        return known
    from nsfwlib.model.build import resolve_model
    from nsfwlib.model.classifier import class_names as names_of, image_size
    from nsfwlib.model.forward import model_identity

    classifier = resolve_model(model, class_names=class_names, rescaling=rescaling)
    ready = Ready(names_of(classifier), image_size(classifier), model_identity(classifier), cache_dir, classifier)
    if note and _convert(classifier, cache_dir, must=runtime == "onnxruntime", progress=progress):
        runs.write_json({"class_names": ready.class_names, "size": ready.size, "identity": ready.identity}, note)
        ready = ready._replace(classifier=None)
    return ready


def _noted(note: Path, cache_dir: Path) -> Ready | None:
    """What was noted when the model was converted, if its ONNX file is there."""
    try:
        ready = Ready(**runs.read_json(note), cache_dir=cache_dir, classifier=None)
    except (FileNotFoundError, ValueError, TypeError):  # none, cut short, or another version's
        return None
    return ready if ready.onnx_file().exists() else None


def _convert(classifier: keras.Model, cache_dir: Path, *, must: bool, progress: bool) -> bool:
    """Convert what can be converted; what cannot is scored by TensorFlow, unless it `must`."""
    from nsfwlib.model.forward import converted

    if not must and not all(importlib.util.find_spec(name) for name in ("onnx", "tf2onnx")):
        return False
    try:
        with tqdm(total=1, desc="converting to ONNX, once for this model", disable=not progress) as bar:
            converted(classifier, cache_dir=cache_dir)
            bar.update()
    except Exception as error:  # of the converter, which raises many kinds
        if must:
            raise
        warnings.warn(f"The model was not converted to ONNX, and TensorFlow scores: {error}", stacklevel=4)
        return False
    return True
