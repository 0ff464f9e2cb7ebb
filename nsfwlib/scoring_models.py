"""Which model scores? The published one, one of this kit's, or a foreign one wrapped to this kit's contract.

A model given by name or file is converted to ONNX at its first use where that can be done: from then on it answers
without TensorFlow, which alone takes ten seconds to start.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from platformdirs import user_cache_path
from tqdm.auto import tqdm

from nsfwlib import onnx_models, scoring_store
from nsfwlib.onnx_models import Forward

if TYPE_CHECKING:
    import keras


class Ready(NamedTuple):
    """A model that can score. `classifier` is None where its ONNX file in `cache_dir` is all that is needed."""

    class_names: list[str]
    size: int
    identity: str
    cache_dir: Path
    classifier: keras.Model | None

    def onnx_file(self) -> Path:
        """Where its ONNX file is, if it was converted."""
        return onnx_models.path_of(self.cache_dir, [self.identity])

    def forward(self, runtime: str, pictures: int) -> Forward:
        """What computes about so many pictures; see `engine.forward_pass`."""
        if self.classifier is None:
            return onnx_models.open_file(self.onnx_file())
        from nsfwlib import engine

        return engine.forward_pass(self.classifier, engine=runtime, cache_dir=self.cache_dir, pictures=pictures)


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
        onnx_models.require()
    cache_dir = Path(cache_dir or user_cache_path("nsfwlib"))
    given_by_name = isinstance(model, str | os.PathLike) and (model == "published" or Path(model).is_file())
    convert = runtime != "tensorflow" and given_by_name and class_names is None and onnx_models.usable()
    key = onnx_models.key_of(model) if convert else ""
    if key and (kept := onnx_models.recall(cache_dir, key)):
        return Ready(*kept, cache_dir, None)
    classifier = resolve_model(model, class_names=class_names, rescaling=rescaling)
    from nsfwlib import engine
    from nsfwlib import model as classifiers

    kept = onnx_models.Kept(classifiers.class_names(classifier), classifier.input_shape[1], engine.identity(classifier))
    if key and _convert(classifier, cache_dir, must=runtime == "onnxruntime", progress=progress):
        onnx_models.note(cache_dir, key, kept)
        classifier = None
    return Ready(*kept, cache_dir, classifier)


def _convert(classifier: keras.Model, cache_dir: Path, *, must: bool, progress: bool) -> bool:
    """Convert what can be converted; what cannot is scored by TensorFlow, unless it `must`."""
    from nsfwlib import engine

    if not must and not onnx_models.convertible():
        return False
    try:
        with tqdm(total=1, desc="converting to ONNX, once for this model", disable=not progress) as bar:
            engine.converted(classifier, cache_dir=cache_dir)
            bar.update()
    except Exception as error:  # of the converter, which raises many kinds
        if must:
            raise
        warnings.warn(f"The model was not converted to ONNX, and TensorFlow scores: {error}", stacklevel=4)
        return False
    return True


def resolve_model(
    model: keras.Model | Path | str,
    *,
    class_names: Sequence[str] | None = None,
    rescaling: tuple[float, float] = (1 / 255, 0.0),
) -> keras.Model:
    """A classifier of this kit's kind: loaded, fetched, or a foreign one wrapped with its class names.

    Args:
        model: "published", a model file (`.keras`; with `class_names` Keras' old `.h5`, too), or a loaded model.
        class_names: of a foreign model, in the order of its outputs.
        rescaling: of a foreign model: it is given rgb · scale + offset.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no classifier of pictures, or a foreign one without `class_names`.
    """
    from nsfwlib import model as classifiers
    from nsfwlib import published

    if isinstance(model, str) and model == "published":
        _check_same(published.CLASS_NAMES, class_names)
        return published.published_model()
    if isinstance(model, str | os.PathLike) and not Path(model).exists():
        raise FileNotFoundError(f'There is no model file {model}. Name a `.keras` file of a run, or "published".')
    if class_names is None:
        found = classifiers.load_model(Path(model)) if isinstance(model, str | os.PathLike) else model
        try:
            classifiers.class_names(found)
        except ValueError as error:
            raise ValueError(f"{error} Or pass class_names in the order of its outputs, and its rescaling.") from None
        return found
    found = _load(model, class_names)
    try:
        own = classifiers.class_names(found)
    except ValueError:
        return _wrapped(found, class_names, rescaling)
    _check_same(own, class_names)
    return found


def _check_same(own: Sequence[str], class_names: Sequence[str] | None) -> None:
    if class_names is not None and list(own) != list(class_names):
        raise ValueError(f"The model carries its class names: {', '.join(own)}. Received: {', '.join(class_names)}.")


def _load(model: keras.Model | Path | str, class_names: Sequence[str]) -> keras.Model:
    import keras

    from nsfwlib import model as classifiers

    if not isinstance(model, str | os.PathLike):
        return model
    try:
        return classifiers.load_model(Path(model), class_names=class_names)
    except ValueError as ours:
        if not Path(model).is_file():
            raise
        try:
            return keras.models.load_model(model, compile=False, safe_mode=True)
        except Exception as error:  # Keras raises many kinds
            raise ValueError(f"{ours} Keras {keras.__version__} does not load it either.") from error


def _wrapped(foreign: keras.Model, class_names: Sequence[str], rescaling: tuple[float, float]) -> keras.Model:
    """`foreign` between this kit's rescaling and named classes, after a look at what it answers."""
    import keras

    from nsfwlib import model as classifiers

    shape, names = foreign.input_shape, classifiers._checked_names(class_names)
    if not isinstance(shape, tuple) or len(shape) != 4 or shape[1] != shape[2] or not shape[1] or shape[3] != 3:
        raise ValueError(f"Expected a model of square RGB pictures (B, S, S, 3). Received one of shape {shape}.")
    if foreign.output_shape != (None, len(names)):
        raise ValueError(
            f"Expected {len(names)} probabilities, one for each of {', '.join(names)}. Received a model whose output "
            f"has the shape {foreign.output_shape}."
        )
    inputs = keras.Input(shape[1:], name="rgb")
    x = foreign(keras.layers.Rescaling(*rescaling, name="rescaling")(inputs))
    label = ".".join([classifiers._CLASSES, *map(classifiers._escape, names)])
    wrapped = keras.Model(inputs, keras.layers.Identity(name=label, dtype="float32")(x), name="wrapped")
    answer = wrapped(np.random.default_rng(0).integers(0, 256, (2, *shape[1:])).astype(np.float32), training=False)
    sums = np.asarray(answer).sum(axis=1)
    if np.asarray(answer).min() < -1e-3 or not np.allclose(sums, 1, atol=1e-2):
        raise ValueError(f"Expected probabilities, which sum to 1. Received answers that sum to {sums.round(2)}.")
    return wrapped


def check_columns(class_names: Sequence[str]) -> list[str]:
    """The class names, if a table of scores can have columns called so.

    Raises:
        ValueError: one is called like another column.
    """
    columns = [*class_names, *(f"{name}_max" for name in class_names), *scoring_store.FIXED]
    clash = sorted({name for name in columns if columns.count(name) > 1})
    if clash:
        raise ValueError(f"No class can be called like another column of the table. Rename: {', '.join(clash)}.")
    return list(class_names)
