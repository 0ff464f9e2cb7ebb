"""Which model scores? The published one, one of this kit's, or a foreign one wrapped to this kit's contract."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nsfwlib import scoring_store

if TYPE_CHECKING:
    import keras


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
        return published.published_model()
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
    if own != list(class_names):
        raise ValueError(f"The model carries its class names: {', '.join(own)}. Received: {', '.join(class_names)}.")
    return found


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


def table_classes(classifier: keras.Model) -> list[str]:
    """Class names, after a check that a table of scores can have columns called so.

    Raises:
        ValueError: one is called like another column.
    """
    from nsfwlib import model as classifiers

    names = classifiers.class_names(classifier)
    columns = [*names, *(f"{name}_max" for name in names), *scoring_store.FIXED]
    clash = sorted({name for name in columns if columns.count(name) > 1})
    if clash:
        raise ValueError(f"No class can be called like another column of the table. Rename: {', '.join(clash)}.")
    return names
