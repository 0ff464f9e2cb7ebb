"""What does the frozen lower part make of each picture? Kept on disk, so that fine-tuning need not compute it again.

Up to `mixed7` lie 87 % of an InceptionV3's multiplications; as float16 its output costs 444 KB a picture and view.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from nsfwlib import engine
from nsfwlib import model as classifiers  # before Keras and TensorFlow: it keeps them quiet
from nsfwlib.features import decoded_batches

import keras  # isort: skip
import tensorflow as tf  # isort: skip

MARK_SECONDS = 10  # what a kill may cost


def upper_model(model: keras.Model, block: str) -> keras.Model:
    """The part of `model` after `block`, *sharing* its layers: training it trains the classifier.

    Raises:
        ValueError: what follows needs more than this block's output.
    """
    try:
        return keras.Model(classifiers.block_output(model, block), model.output, name="upper")
    except ValueError as error:
        if "no block" in str(error):
            raise
        raise ValueError(
            f"The layers after {block!r} need more than its output, so it is no boundary. Choose the end of a block "
            f"(mixed0 … mixed10 of InceptionV3), or stored_views=0."
        ) from None


def boundary_bytes(model: keras.Model, block: str, rows: int) -> int:
    """Bytes on disk for the output of `block` of so many pictures."""
    return rows * int(np.prod(classifiers.block_output(model, block).shape[1:])) * 2


def store_boundary(
    model: keras.Model,
    block: str,
    paths: Sequence[Path],
    folder: Path,
    *,
    views: int = 1,
    augment: Callable[[np.ndarray, tuple[int, int]], np.ndarray] | None = None,
    batch_size: int = 32,
    seed: int = 0,
    progress: bool = True,
) -> np.ndarray:
    """Output of `block` for each view of each picture: float16 (views · N, H, W, C), memory-mapped in `folder`.

    All pictures in their first view come first, then all in the second. With `augment`, a function of pixels
    (B, S, S, 3) and a seed, every view is another augmentation. A killed pass goes on where it stopped; the caller
    gives each combination of weights, pictures and seed a folder of its own.

    Raises:
        OSError: there is not enough room on the disk; nothing was written.
        ValueError: a picture can no longer be read.
    """
    part = keras.Model(model.input, classifiers.block_output(model, block))
    shape = (views * len(paths), *part.output_shape[1:])
    folder.mkdir(parents=True, exist_ok=True)
    data, state = folder / "rows.f16", folder / "done.json"
    start = json.loads(state.read_text()) if state.exists() and data.exists() else 0
    need, free = int(np.prod(shape)) * 2, shutil.disk_usage(folder).free
    if not data.exists() and need > free:
        raise OSError(
            f"Expected {need / 1e9:.1f} GB of room in {folder} for what lies before {block}. Received: "
            f"{free / 1e9:.1f} GB. Use fewer stored views, or stored_views=0."
        )
    rows = np.memmap(data, np.float16, "r+" if start else "w+", shape=shape)
    if start < len(paths):
        forward, marked = engine.folded(part), time.monotonic()
        with tqdm(total=len(paths), initial=start, desc=f"up to {block}", unit="img", disable=not progress) as bar:
            for positions, pixels, problems in decoded_batches(
                paths[start:], size=part.input_shape[1], batch_size=batch_size
            ):
                if problems:
                    raise ValueError(f"A picture can no longer be read. Scan again (01_explore_data). {problems[0]}")
                for view in range(views):
                    seen = pixels if augment is None else augment(pixels, (seed + view, int(start + positions[0])))
                    rows[view * len(paths) + start + positions] = forward(seen)[0]
                bar.update(len(positions))
                if time.monotonic() - marked > MARK_SECONDS:
                    _mark(rows, state, start + int(positions[-1]) + 1)
                    marked = time.monotonic()
        _mark(rows, state, len(paths))
    return np.memmap(data, np.float16, "r", shape=shape)


def _mark(rows: np.memmap, state: Path, done: int) -> None:
    """What is counted as done is on disk first."""
    rows.flush()
    partial = state.with_suffix(".partial")
    partial.write_text(json.dumps(done))
    partial.replace(state)


def boundary_dataset(
    rows: np.ndarray, targets: np.ndarray, *, batch_size: int, shuffled: bool = False, seed: int = 0
) -> tf.data.Dataset:
    """Batches (float32 (b, H, W, C), one-hot (b, K)); every epoch takes each picture once, in a view drawn anew."""
    count, shape = len(targets), rows.shape[1:]
    views = len(rows) // count

    def gather(positions: np.ndarray, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return rows[(drawn % views) * count + positions].astype(np.float32), targets[positions]

    def shaped(positions: tf.Tensor, drawn: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x, y = tf.numpy_function(gather, [positions, drawn], [tf.float32, targets.dtype])
        return tf.ensure_shape(x, (None, *shape)), tf.ensure_shape(y, (None, targets.shape[1]))

    order = tf.data.Dataset.range(count)
    order = order.shuffle(count, seed=seed) if shuffled else order
    drawn = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True)
    return tf.data.Dataset.zip(order, drawn).batch(batch_size).map(shaped).prefetch(2)
