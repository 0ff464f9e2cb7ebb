"""How is the head trained? On cached features: a frozen backbone gives the same output every epoch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from nsfwlib._tensorflow import keras, tf
from nsfwlib.data import MAX_PIXELS, check_class_names
from nsfwlib.model import (
    Files,
    class_names as names_of,
    forward_pass,
    head_model,
    image_size,
    reset_head,
    seed_dropout,
    stream_answers,
)


def train_head(
    model: keras.Model,
    features: np.ndarray,
    labels: pd.Series,
    splits: pd.Series,
    *,
    epochs: int = 60,
    batch_size: int | None = None,
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
        batch_size: rows a step; by default 128, and more where an epoch would have over 500 steps, up to 2,048.
        learning_rate: of Adam.
        patience: epochs.
        label_smoothing: 0 … 1, spread evenly over the classes (Szegedy et al. 2016, section 7).
        class_weight: "balanced" weighs classes by the inverse of their number, None does not.
        seed: of initial weights, order and dropout.

    Returns:
        One row an epoch: stage, epoch, loss, accuracy, val_loss, val_accuracy, learning_rate.

    Raises:
        ValueError: a class without a training image, labels of unknown classes, no validation images.
        FloatingPointError: the loss became NaN; the head keeps the weights of the best epoch before.
    """
    if not len(features) == len(labels) == len(splits):
        raise ValueError(
            f"Expected a row of features, a label and a split for each picture. Received: {len(features)} rows of "
            f"features, {len(labels)} labels, {len(splits)} splits."
        )
    usable = labels.notna().to_numpy() & ~np.isnan(features[:, 0])
    rows = {split: np.flatnonzero(usable & splits.eq(split).to_numpy()) for split in ("train", "val")}
    targets = one_hot(labels, rows, names_of(model))
    keras.utils.set_random_seed(seed)
    reset_head(model, seed=seed)
    seed_dropout(model, seed=seed)
    head = head_model(model)
    compile_classifier(head, keras.optimizers.Adam(learning_rate), label_smoothing)
    batch_size = batch_size or int(np.clip(len(rows["train"]) // 500, 128, 2048))
    options = {"batch_size": batch_size, "by_number": True, "seed": seed}
    train, val = (
        rows_dataset(features, targets[split], some[None], shuffled=split == "train", **options)
        for split, some in rows.items()
    )
    stop = keras.callbacks.EarlyStopping(
        monitor="val_loss", patience=patience, restore_best_weights=True, start_from_epoch=1
    )
    nan = StopOnNaN()
    fitted = head.fit(
        train,
        validation_data=val,
        epochs=epochs,
        verbose=0,
        shuffle=False,
        callbacks=[nan, stop],
        class_weight=class_weights(targets["train"], class_weight),
    )
    nan.check()
    return history_table(fitted.history, "head").assign(learning_rate=learning_rate)


def one_hot(labels: pd.Series, rows: dict[str, np.ndarray], names: list[str]) -> dict[str, np.ndarray]:
    """Targets float32 (n, K) of each split, after checking that there is something to learn and to judge by."""
    codes = pd.Index(names).get_indexer(labels)
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
        raise ValueError("There is no validation image. Expected rows with split 'val'; see data.assign_splits.")
    return {split: np.eye(len(names), dtype=np.float32)[codes[some]] for split, some in rows.items()}


def rows_dataset(
    values: np.ndarray,
    targets: np.ndarray,
    rows: np.ndarray,
    *,
    batch_size: int,
    shuffled: bool,
    by_number: bool = False,
    seed: int = 0,
) -> tf.data.Dataset:
    """Batches (float32 (b, …), one-hot (b, K)) of rows of (memory-mapped) `values`; only numbers are shuffled.

    `rows` (V, N) numbers the rows of each picture's V views: an epoch takes each picture once, in a view drawn anew.
    With `by_number` a batch is read in the order of the disk.
    """
    views, count = rows.shape

    def gather(positions: np.ndarray, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        positions = np.sort(positions) if by_number else positions
        return values[rows[drawn % views, positions]].astype(np.float32), targets[positions]

    def shaped(positions: tf.Tensor, drawn: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x, y = tf.numpy_function(gather, [positions, drawn], [tf.float32, tf.float32])
        return tf.ensure_shape(x, (None, *values.shape[1:])), tf.ensure_shape(y, (None, targets.shape[1]))

    order = tf.data.Dataset.range(count)
    order = order.shuffle(count, seed=seed) if shuffled else order
    drawn = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True)
    return tf.data.Dataset.zip(order, drawn).batch(batch_size).map(shaped).prefetch(2)


def compile_classifier(model: keras.Model, optimizer: keras.Optimizer, label_smoothing: float = 0.0) -> None:
    """Cross-entropy on one-hot labels, accuracy beside it."""
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=label_smoothing)
    model.compile(optimizer, loss=loss, metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")])


def class_weights(targets: np.ndarray, kind: str | None) -> dict[int, float] | None:
    """Of "balanced": the inverse of each class's number, scaled so that the mean over the rows is 1."""
    if kind not in (None, "balanced"):
        raise ValueError(f"class_weight must be 'balanced' or None. Received: {kind!r}.")
    counts = targets.sum(axis=0)
    return None if kind is None else dict(enumerate((len(targets) / (len(counts) * counts)).tolist()))


def history_table(history: dict[str, list[float]], stage: str, *, first: int = 1) -> pd.DataFrame:
    """Keras' history, one row an epoch, with `stage` and `epoch`."""
    table = pd.DataFrame(history)
    table.insert(0, "epoch", np.arange(first, first + len(table)))
    table.insert(0, "stage", stage)
    return table


class StopOnNaN(keras.callbacks.Callback):
    """Stops training where the loss is no number, and remembers where."""

    def __init__(self) -> None:
        super().__init__()
        self.where, self.epoch = "", 0

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Called by Keras."""
        self.epoch = epoch + 1

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Called by Keras."""
        if not self.where and not np.isfinite((logs or {}).get("loss", 0.0)):
            self.where = f"epoch {self.epoch}, batch {batch + 1}"
            self.model.stop_training = True

    def check(self, kept: str = "The best weights so far are in the model.") -> None:
        """Raise FloatingPointError if training was stopped."""
        if self.where:
            raise FloatingPointError(
                f"The loss is no longer a number since {self.where}. {kept} Try a smaller learning_rate."
            )


def predict(
    model: keras.Model, table: pd.DataFrame, data_dir: Path, *, batch_size: int = 32, progress: bool = True
) -> np.ndarray:
    """Probabilities float32 (N, K) of the rows of the images table; NaN where a picture cannot be read."""
    found = np.full((len(table), model.output_shape[-1]), np.nan, np.float32)
    options = {"size": image_size(model), "batch_size": batch_size}
    files = Files(str(data_dir), max_pixels=table.attrs.get("max_pixels", MAX_PIXELS))  # that of the scan
    answers = stream_answers(enumerate(table["path"]), files, forward_pass(model), **options)
    with tqdm(total=len(table), desc="predictions", unit="img", disable=not progress) as bar:
        for batch in answers:
            for answer in batch:
                if answer.values is not None:
                    found[answer.position] = answer.values[0]
            bar.update(len(batch))
    return found


def predictions_table(table: pd.DataFrame, pred_probs: np.ndarray, class_names: Sequence[str]) -> pd.DataFrame:
    """`path`, `split`, one column of probabilities a class: what `predictions.parquet` holds.

    Raises:
        ValueError: a class is called like a column; see `data.check_class_names`.
    """
    check_class_names(class_names)
    probabilities = pd.DataFrame(pred_probs, columns=list(class_names), index=table.index)
    return pd.concat([table[["path", "split"]], probabilities], axis=1).reset_index(drop=True)
