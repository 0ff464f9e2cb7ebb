"""How does a converted model answer without TensorFlow, and how is it found again?

A model given by name or file is converted to ONNX at its first use where that can be done: from then on it answers
without TensorFlow, which alone takes ten seconds to start.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from platformdirs import user_cache_path
from tqdm.auto import tqdm

from nsfwlib.files import write_whole
from nsfwlib.model.published import INTEGRITY, VERSION

if TYPE_CHECKING:
    import keras

Forward = Callable[[np.ndarray], list[np.ndarray]]
_GPUS = ("/dev/nvidia0", "/dev/dxg", "/dev/kfd")  # NVIDIA, NVIDIA under WSL, AMD
# the same answers as on a CPU: neither TensorFloat-32 nor a phone's half precision
_PROVIDERS = {"CUDAExecutionProvider": {"use_tf32": 0}, "CPUExecutionProvider": {}}


class Kept(NamedTuple):
    """A converted classifier. `identity` is `model.model_identity` of the model it was made from."""

    class_names: list[str]
    size: int
    identity: str


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


def onnx_convertible() -> bool:
    """Is all there that `model.onnx_file` needs?"""
    return all(importlib.util.find_spec(name) is not None for name in ("onnx", "tf2onnx"))


def kept_path(cache_dir: Path, identities: Sequence[str], outputs: Sequence[str] = ("probabilities",)) -> Path:
    """Where the ONNX file of these outputs is kept; `identities` are `model.model_identity` of each."""
    name = "-".join(f"{output}-{identity}" for output, identity in zip(outputs, identities, strict=True))
    return Path(cache_dir) / "onnx" / f"{name}.onnx"


def open_onnx_file(path: Path, outputs: Sequence[str] = ("probabilities",), *, threads: int | None = None) -> Forward:
    """A function from RGB 0–255, uint8 or float32 (B, S, S, 3), to a list of float32 arrays, one an output.

    Raises:
        ImportError: onnxruntime is not installed.
        RuntimeError: the file is damaged. It is gone then: the next call converts the model anew.
    """
    onnxruntime = require_onnx()
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


def file_key(model: Path | str) -> str:
    """What a model given by name or file is known by: 32 hex digits that change with its content."""
    if model == "published":
        return hashlib.sha256(f"InceptionV3 {VERSION} {INTEGRITY}".encode()).hexdigest()[:32]
    with Path(model).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def recall_kept(cache_dir: Path, key: str) -> Kept | None:
    """What was noted under `key`, if its ONNX file is there."""
    note = Path(cache_dir) / "onnx" / f"{key}.json"
    try:
        kept = Kept(**json.loads(note.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):  # none, cut short, or another version's
        return None
    return kept if kept_path(cache_dir, [kept.identity]).exists() else None


def note_kept(cache_dir: Path, key: str, kept: Kept) -> None:
    """Remember that the model known as `key` is the one converted to `kept`."""
    path = Path(cache_dir) / "onnx" / f"{key}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_whole(path) as draft:
        draft.write_text(json.dumps(kept._asdict()), encoding="utf-8")


class Ready(NamedTuple):
    """A model that can score. `classifier` is None where its ONNX file in `cache_dir` is all that is needed."""

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
    key = file_key(model) if convert else ""
    if key and (kept := recall_kept(cache_dir, key)):
        return Ready(*kept, cache_dir, None)
    from nsfwlib.model.build import resolve_model
    from nsfwlib.model.classifier import class_names as names_of
    from nsfwlib.model.forward import model_identity

    classifier = resolve_model(model, class_names=class_names, rescaling=rescaling)
    kept = Kept(names_of(classifier), classifier.input_shape[1], model_identity(classifier))
    if key and _convert(classifier, cache_dir, must=runtime == "onnxruntime", progress=progress):
        note_kept(cache_dir, key, kept)
        classifier = None
    return Ready(*kept, cache_dir, classifier)


def _convert(classifier: keras.Model, cache_dir: Path, *, must: bool, progress: bool) -> bool:
    """Convert what can be converted; what cannot is scored by TensorFlow, unless it `must`."""
    from nsfwlib.model.forward import converted

    if not must and not onnx_convertible():
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
