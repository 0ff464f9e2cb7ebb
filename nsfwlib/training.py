"""How is the classifier trained? Features of the frozen backbone once, the head on those, then the upper blocks.

A frozen backbone gives the same output every epoch, so it is computed once and kept on disk. Only fine-tuning, which
changes the backbone and augments the pictures, looks at pixels again.
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from nsfwlib import dataset, feature_store, images
from nsfwlib import model as classifiers  # before Keras and TensorFlow: it keeps them quiet

import keras  # isort: skip
import tensorflow as tf  # isort: skip

STORE_SECONDS = 10  # what a kill may cost


# ------------------------------------------------------------------------------------------------ pictures
def decoded_batches(
    paths: Sequence[Path], *, size: int, batch_size: int = 32, workers: int = 4, keys: Sequence[str] | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray, list[str]]]:
    """Decode ahead of the consumer, batch by batch: (positions, uint8 (b, size, size, 3), problems).

    Positions are of the pictures that could be read; `problems` names the others. Memory holds a few batches. With
    `keys` (sha256 of what each file should hold) a file that has changed since is a problem.
    """

    def load(position: int) -> np.ndarray | str:
        try:
            data = images.read_bytes(paths[position])
            if keys is not None and hashlib.sha256(data).hexdigest() != keys[position]:
                return f"{paths[position]}: changed since the scan; scan again"
            return images.load_image(data, size=size)
        except images.ImageProblem as problem:
            return f"{paths[position]}: {problem}"

    with ThreadPoolExecutor(workers) as pool:
        queue: deque[list[tuple[int, Future]]] = deque()
        starts = iter(range(0, len(paths), batch_size))
        try:
            while True:
                while len(queue) < 3 and (start := next(starts, None)) is not None:
                    batch = range(start, min(start + batch_size, len(paths)))
                    queue.append([(i, pool.submit(load, i)) for i in batch])
                if not queue:
                    return
                done = [(i, future.result()) for i, future in queue.popleft()]
                good = [(i, pixels) for i, pixels in done if not isinstance(pixels, str)]
                pixels = np.stack([p for _, p in good]) if good else np.empty((0, size, size, 3), np.uint8)
                yield np.array([i for i, _ in good], int), pixels, [p for _, p in done if isinstance(p, str)]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


# ------------------------------------------------------------------------------------------------ features
def bottleneck_features(
    model: keras.Model,
    table: pd.DataFrame,
    data_dir: Path,
    *,
    cache_dir: Path,
    blocks: str | Sequence[str] = "mixed10",
    batch_size: int = 32,
    progress: bool = True,
) -> np.ndarray:
    """Pooled backbone outputs of every row of the images table: float16 (N, ΣD), the blocks side by side.

    Args:
        model: a classifier; the backbone and its rescaling are used, the head is not.
        table: rows of the images table (`path`, `sha256`); rows with a problem are never opened and come out as NaN, as
            do those whose file has changed or broken since the scan.
        data_dir: the folder that `path` is relative to.
        cache_dir: shared by runs. Rows are kept by content hash and by identity of the weights, so that renamed,
            relabelled and copied files cost nothing. Interrupt or kill it: the next call goes on where it stopped.
        blocks: layer names, e.g. "mixed4" (768 wide) or ("mixed4", "mixed10"); see `model.feature_model`.
        batch_size: pictures a forward pass.
        progress: show a progress bar where there is something to compute.

    Raises:
        ValueError: the backbone has no such block.
    """
    parts = block_features(
        model, table, data_dir, cache_dir=cache_dir, blocks=blocks, batch_size=batch_size, progress=progress
    )
    arrays = list(parts.values())
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=1)


def block_features(
    model: keras.Model,
    table: pd.DataFrame,
    data_dir: Path,
    *,
    cache_dir: Path,
    blocks: str | Sequence[str],
    batch_size: int = 32,
    progress: bool = True,
) -> dict[str, np.ndarray]:
    """`bottleneck_features`, block by block: name → float16 (N, D). Several blocks cost one pass."""
    blocks = [blocks] if isinstance(blocks, str) else list(blocks)
    backbone = classifiers.feature_model(model, blocks)
    widths = [output.shape[-1] for output in backbone.outputs]
    folders = [Path(cache_dir) / "features" / f"{block}-{_identity(model, block)}" for block in blocks]
    usable = table[table["problem"].eq("")] if "problem" in table else table
    unique = usable.drop_duplicates("sha256")
    missing = np.zeros(len(unique), bool)
    for folder, width in zip(folders, widths, strict=True):
        missing |= feature_store.positions(folder, unique["sha256"], width) < 0
    if missing.any():
        _compute_features(backbone, unique[missing], Path(data_dir), folders, batch_size, progress)
    found = {}
    for block, folder, width in zip(blocks, folders, widths, strict=True):
        rows = feature_store.positions(folder, table["sha256"], width)
        found[block] = feature_store.read(folder, rows, width)
    return found


def _identity(model: keras.Model, block: str) -> str:
    """16 hex digits for everything that shapes a block's output: rescaling, picture size, weights up to it."""
    part = keras.Model(model.input, classifiers.block_output(model, block))
    rescaling = model.get_layer("rescaling")
    head = [list(model.input_shape[1:]), float(rescaling.scale), float(rescaling.offset), "pillow-bilinear"]
    digest = hashlib.sha256(json.dumps(head).encode())
    for kind, layers in sorted(classifiers.layer_weights(part.layers).items()):
        digest.update(kind.encode())
        for weights in layers:
            for array in weights:
                digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()[:16]


def _compute_features(
    backbone: keras.Model, rows: pd.DataFrame, data_dir: Path, folders: list[Path], batch_size: int, progress: bool
) -> None:
    """Forward pass over `rows`, stored as it goes; what is computed when an interrupt comes is stored too."""
    forward = tf.function(lambda pixels: backbone(pixels, training=False), reduce_retracing=True)
    keys = rows["sha256"].to_numpy()
    have = [
        feature_store.positions(folder, keys, out.shape[-1]) >= 0
        for folder, out in zip(folders, backbone.outputs, strict=True)
    ]
    pending: list[tuple[np.ndarray, list[np.ndarray]]] = []

    def store() -> None:
        if not pending:
            return
        done = np.concatenate([positions for positions, _ in pending])
        for i, folder in enumerate(folders):
            values = np.concatenate([outputs[i] for _, outputs in pending])
            fresh = ~have[i][done]
            if fresh.any():
                feature_store.append(folder, keys[done[fresh]], values[fresh])
        pending.clear()

    paths = [dataset.file_path(data_dir, path) for path in rows["path"]]
    stored = time.monotonic()
    try:
        with tqdm(total=len(rows), desc="features", unit="img", disable=not progress) as bar:
            for positions, pixels, problems in decoded_batches(
                paths, size=backbone.input_shape[1], batch_size=batch_size, keys=keys
            ):
                if len(positions):
                    outputs = forward(tf.constant(pixels, tf.float32))
                    outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
                    pending.append((positions, [out.numpy().astype(np.float16) for out in outputs]))
                bar.update(len(positions) + len(problems))
                if time.monotonic() - stored > STORE_SECONDS:
                    store()
                    stored = time.monotonic()
    finally:
        store()


# ------------------------------------------------------------------------------------------------ stage 1
def train_head(
    model: keras.Model,
    features: np.ndarray,
    labels: pd.Series,
    splits: pd.Series,
    *,
    epochs: int = 60,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    patience: int = 8,
    label_smoothing: float = 0.0,
    class_weight: str | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Stage 1: train the head of `model` on its bottleneck features (N, D); the best epoch on `val` is kept.

    Args:
        model: a classifier; its head is trained in place.
        features: pooled output of the block before the head; rows with NaN are left out.
        labels: N class names; missing ones are left out.
        splits: N of "train", "val", "test"; `test` is not looked at.
        epochs: at most so many; early stopping after `patience` epochs without a lower validation loss.
        batch_size: rows a step.
        learning_rate: of Adam.
        patience: epochs.
        label_smoothing: 0 … 1, spread evenly over the classes (Szegedy et al. 2016, section 7).
        class_weight: "balanced" weighs classes by the inverse of their number, None does not.
        seed: of initial weights, order and dropout.

    Returns:
        One row an epoch: stage, epoch, loss, accuracy, val_loss, val_accuracy, learning_rate.

    Raises:
        ValueError: a class without a training image, labels of unknown classes, no validation images.
    """
    names = classifiers.class_names(model)
    usable = labels.notna().to_numpy() & ~np.isnan(features[:, 0])
    rows = {split: np.flatnonzero(usable & splits.eq(split).to_numpy()) for split in ("train", "val")}
    targets = _one_hot(labels, rows, names)
    keras.utils.set_random_seed(seed)
    classifiers.reset_head(model, seed=seed)
    classifiers.seed_dropout(model, seed=seed)
    head = classifiers.head_model(model)
    compile_classifier(head, keras.optimizers.Adam(learning_rate), label_smoothing)
    parts = {
        split: _rows_dataset(features, targets[split], rows[split], batch_size, split == "train", seed)
        for split in rows
    }
    stop = keras.callbacks.EarlyStopping(
        monitor="val_loss", patience=patience, restore_best_weights=True, start_from_epoch=1
    )
    fitted = head.fit(
        parts["train"],
        validation_data=parts["val"],
        epochs=epochs,
        verbose=0,
        shuffle=False,
        callbacks=[stop, keras.callbacks.TerminateOnNaN()],
        class_weight=_class_weight(targets["train"], class_weight),
    )
    return _history(fitted.history, "head").assign(learning_rate=learning_rate)


def _one_hot(labels: pd.Series, rows: dict[str, np.ndarray], names: list[str]) -> dict[str, np.ndarray]:
    """Targets float32 (n, K) of each split, after checking that there is something to learn and to judge by."""
    codes = pd.Categorical(labels, categories=names).codes
    chosen = np.concatenate(list(rows.values()))
    unknown = sorted(set(labels.iloc[chosen[codes[chosen] < 0]]))
    if unknown:
        raise ValueError(f"Labels must be classes of the model ({', '.join(names)}). Received: {', '.join(unknown)}.")
    absent = [name for i, name in enumerate(names) if not (codes[rows["train"]] == i).any()]
    if absent:
        raise ValueError(
            f"Every class needs training images. Without any: {', '.join(absent)}. Add images, or leave the class out "
            "with class_map."
        )
    if not len(rows["val"]):
        raise ValueError("There is no validation image. Expected rows with split 'val'; see dataset.assign_splits.")
    return {split: np.eye(len(names), dtype=np.float32)[codes[some]] for split, some in rows.items()}


def _rows_dataset(
    features: np.ndarray, targets: np.ndarray, rows: np.ndarray, batch_size: int, shuffled: bool, seed: int
) -> tf.data.Dataset:
    """Batches of feature rows gathered from (memory-mapped) `features`; only the row numbers are shuffled."""
    width, classes = features.shape[1], targets.shape[1]

    def gather(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        chosen = np.sort(chosen)
        return features[rows[chosen]].astype(np.float32), targets[chosen]

    def shaped(chosen: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x, y = tf.numpy_function(gather, [chosen], [tf.float32, tf.float32])
        return tf.ensure_shape(x, (None, width)), tf.ensure_shape(y, (None, classes))

    order = tf.data.Dataset.range(len(rows))
    order = order.shuffle(len(rows), seed=seed) if shuffled else order
    return order.batch(batch_size).map(shaped).prefetch(2)


def compile_classifier(model: keras.Model, optimizer: keras.Optimizer, label_smoothing: float = 0.0) -> None:
    """Cross-entropy on one-hot labels, accuracy beside it."""
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=label_smoothing)
    model.compile(optimizer, loss=loss, metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")])


def _class_weight(targets: np.ndarray, kind: str | None) -> dict[int, float] | None:
    if kind not in (None, "balanced"):
        raise ValueError(f"class_weight must be 'balanced' or None. Received: {kind!r}.")
    counts = targets.sum(axis=0)
    return None if kind is None else dict(enumerate((len(targets) / (len(counts) * counts)).tolist()))


def _history(history: dict[str, list[float]], stage: str) -> pd.DataFrame:
    table = pd.DataFrame(history)
    table.insert(0, "epoch", np.arange(1, len(table) + 1))
    table.insert(0, "stage", stage)
    return table


# ------------------------------------------------------------------------------------------------ stage 2
def fine_tune(
    model: keras.Model,
    table: pd.DataFrame,
    labels: pd.Series,
    data_dir: Path,
    *,
    work_dir: Path,
    fine_tune_from: str = "mixed7",
    epochs: int = 2,
    batch_size: int = 16,
    learning_rate: float = 1e-3,
    label_smoothing: float = 0.0,
    class_weight: str | None = None,
    augmented: bool = True,
    keep: str = "best",
    seed: int = 0,
    verbose: int = 1,
) -> pd.DataFrame:
    """Stage 2: train the blocks after `fine_tune_from` and the head, on augmented pictures, in place.

    The weights of the lowest validation loss are kept, those of stage 1 included: where fine-tuning does not help,
    nothing is lost. A killed run that is started again with the same arguments goes on at its epoch.

    Args:
        model: a classifier whose head is trained (`train_head`).
        table: the images table with `split`; `test` is not looked at.
        labels: N class names; rows with a missing one are left out.
        data_dir: the folder that `path` is relative to.
        work_dir: for the backup and the checkpoint; removed files are its own.
        fine_tune_from: last frozen block; BatchNorm stays frozen everywhere.
        epochs: passes over the training images.
        batch_size: pictures a step.
        learning_rate: peak of SGD with momentum 0.9: a tenth of the steps of warm-up, then cosine decay.
        label_smoothing: as in `train_head`.
        class_weight: as in `train_head`.
        augmented: see `augment`.
        keep: "best" weights by validation loss, or those of the "last" epoch.
        seed: of order, augmentation and dropout.
        verbose: as in Keras.

    Returns:
        One row an epoch, as from `train_head`.
    """
    usable = labels.notna().to_numpy() & table["problem"].eq("").to_numpy()
    rows = {split: np.flatnonzero(usable & table["split"].eq(split).to_numpy()) for split in ("train", "val")}
    targets = _one_hot(labels, rows, classifiers.class_names(model))
    size = classifiers.image_size(model)
    paths = {split: [dataset.file_path(data_dir, p) for p in table["path"].iloc[some]] for split, some in rows.items()}
    train = picture_dataset(
        paths["train"],
        targets["train"],
        size=size,
        batch_size=batch_size,
        shuffled=True,
        augmented=augmented,
        seed=seed,
    )
    val = picture_dataset(paths["val"], targets["val"], size=size, batch_size=batch_size, seed=seed)
    keras.utils.set_random_seed(seed)
    classifiers.seed_dropout(model, seed=seed)
    classifiers.unfreeze_from(model, fine_tune_from)
    steps = max(1, -(-len(paths["train"]) // batch_size)) * epochs
    warm_up = max(1, steps // 10)
    schedule = keras.optimizers.schedules.CosineDecay(
        learning_rate / 10, max(1, steps - warm_up), warmup_target=learning_rate, warmup_steps=warm_up
    )
    compile_classifier(model, keras.optimizers.SGD(schedule, momentum=0.9), label_smoothing)
    best = Path(work_dir) / "best.weights.h5"
    best.parent.mkdir(parents=True, exist_ok=True)
    before = model.evaluate(val, verbose=0, return_dict=True)["loss"]
    model.save_weights(best)
    callbacks = [
        keras.callbacks.BackupAndRestore(Path(work_dir) / "backup"),
        keras.callbacks.ModelCheckpoint(
            best, monitor="val_loss", save_best_only=True, save_weights_only=True, initial_value_threshold=before
        ),
        keras.callbacks.TerminateOnNaN(),
        RecordLearningRate(),
    ]
    fitted = model.fit(
        train,
        validation_data=val,
        epochs=epochs,
        verbose=verbose,
        shuffle=False,
        callbacks=callbacks,
        class_weight=_class_weight(targets["train"], class_weight),
    )
    if keep == "best":
        with warnings.catch_warnings():  # the state of the optimizer, which is of no more use, does not match
            warnings.simplefilter("ignore", UserWarning)
            model.load_weights(best)
    classifiers.freeze_backbone(model)
    return _history(fitted.history, "fine-tune")


class RecordLearningRate(keras.callbacks.Callback):
    """Adds the learning rate at the end of each epoch to the history."""

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Called by Keras."""
        if logs is not None:
            logs["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))


def picture_dataset(
    paths: Sequence[Path],
    targets: np.ndarray,
    *,
    size: int,
    batch_size: int,
    shuffled: bool = False,
    augmented: bool = False,
    seed: int = 0,
) -> tf.data.Dataset:
    """Batches (float32 RGB 0–255 (b, size, size, 3), one-hot (b, K)), decoded in parallel and never held together."""
    targets = tf.constant(targets)

    def load(position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pixels = tf.numpy_function(lambda i: images.load_image(paths[i], size=size), [position], tf.uint8)
        return tf.ensure_shape(pixels, (size, size, 3)), targets[position]

    order = tf.data.Dataset.range(len(paths))
    order = order.shuffle(len(paths), seed=seed) if shuffled else order
    batches = order.map(load, num_parallel_calls=tf.data.AUTOTUNE).batch(batch_size)
    if augmented:
        seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).batch(2)
        batches = tf.data.Dataset.zip(batches, seeds).map(
            lambda batch, key: (augment(batch[0], key), batch[1]), num_parallel_calls=1
        )
    else:
        batches = batches.map(lambda x, y: (tf.cast(x, tf.float32), y))
    return batches.prefetch(2)


def augment(
    pixels: tf.Tensor,
    seed: tf.Tensor,
    *,
    rotation: float = 30.0,
    shift: float = 0.2,
    shear: float = 0.2,
    zoom: float = 0.2,
    channel_shift: float = 20.0,
) -> tf.Tensor:
    """The augmentation of 2019 as one resampling: RGB 0–255 (B, S, S, 3) → float32 of the same shape and range.

    Rotation ± degrees, shift ± share of the side, shear ± tangent, zoom 1 ± share, one brightness shift a picture of
    ± grey levels, horizontal flip. `seed` is two integers; edges are repeated.
    """
    count, side = tf.shape(pixels)[0], tf.cast(tf.shape(pixels)[1], tf.float32)
    draw = tf.random.stateless_uniform((7, count), seed, -1.0, 1.0)
    angle = draw[0] * (rotation * np.pi / 180)
    scale, flip = 1 + zoom * draw[1], tf.sign(draw[2])
    cos, sin = tf.cos(angle) * scale, tf.sin(angle) * scale
    a, b = cos * flip, (shear * draw[3] * cos - sin)
    c, d = sin * flip, (shear * draw[3] * sin + cos)
    centre = (side - 1) / 2
    x = centre - a * centre - b * centre + shift * side * draw[4]
    y = centre - c * centre - d * centre + shift * side * draw[5]
    matrix = tf.stack([a, b, x, c, d, y, tf.zeros(count), tf.zeros(count)], axis=1)
    moved = keras.ops.image.affine_transform(
        tf.cast(pixels, tf.float32), matrix, interpolation="bilinear", fill_mode="nearest"
    )
    return tf.clip_by_value(moved + (channel_shift * draw[6])[:, None, None, None], 0.0, 255.0)


# ------------------------------------------------------------------------------------------------ predictions
def predict(
    model: keras.Model, table: pd.DataFrame, data_dir: Path, *, batch_size: int = 32, progress: bool = True
) -> np.ndarray:
    """Probabilities float32 (N, K) of the rows of the images table; NaN where a picture cannot be read."""
    forward = tf.function(lambda pixels: model(pixels, training=False), reduce_retracing=True)
    found = np.full((len(table), model.output_shape[-1]), np.nan, np.float32)
    paths = [dataset.file_path(data_dir, path) for path in table["path"]]
    with tqdm(total=len(paths), desc="predictions", unit="img", disable=not progress) as bar:
        for positions, pixels, problems in decoded_batches(paths, size=model.input_shape[1], batch_size=batch_size):
            if len(positions):
                found[positions] = forward(tf.constant(pixels, tf.float32)).numpy()
            bar.update(len(positions) + len(problems))
    return found


def predictions_table(table: pd.DataFrame, pred_probs: np.ndarray, class_names: Sequence[str]) -> pd.DataFrame:
    """`path`, `split`, one column of probabilities a class: what `predictions.parquet` holds."""
    probabilities = pd.DataFrame(pred_probs, columns=list(class_names), index=table.index)
    return pd.concat([table[["path", "split"]], probabilities], axis=1).reset_index(drop=True)
