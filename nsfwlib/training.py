"""How is the classifier trained? The head on cached features, then the upper blocks on augmented pictures.

A frozen backbone gives the same output every epoch, so `features` computes it once. Fine-tuning changes the backbone
and augments the pictures: it looks at pixels again, or, where `stored_views` says so, at what the frozen lower part
made of a few augmented views.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from nsfwlib import boundary, dataset, engine, images, runs
from nsfwlib import labels as label_issues
from nsfwlib import model as classifiers  # before Keras and TensorFlow: it keeps them quiet
from nsfwlib.features import block_features, bottleneck_features, decoded_batches, missing_rows

import keras  # isort: skip
import tensorflow as tf  # isort: skip

__all__ = ["block_features", "bottleneck_features", "decoded_batches"]


# ------------------------------------------------------------------------------------------------ stage 1
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
        features: pooled output of the block before the head; rows with NaN are left out. (V·N, D) with several views
            (see `features.bottleneck_features`): trained on all of them, judged on the first.
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
    views = len(features) // len(labels)
    if len(features) != views * len(labels) or len(labels) != len(splits):
        raise ValueError(
            f"Expected features of {len(labels)} rows a view, one a label. Received: {len(features)} rows of features, "
            f"{len(labels)} labels, {len(splits)} splits."
        )
    labels, splits = pd.concat([labels] * views), pd.concat([splits, *[splits.replace("val", "")] * (views - 1)])
    usable = labels.notna().to_numpy() & ~np.isnan(features[:, 0])
    rows = {split: np.flatnonzero(usable & splits.eq(split).to_numpy()) for split in ("train", "val")}
    targets = _one_hot(labels, rows, classifiers.class_names(model))
    keras.utils.set_random_seed(seed)
    classifiers.reset_head(model, seed=seed)
    classifiers.seed_dropout(model, seed=seed)
    head = classifiers.head_model(model)
    compile_classifier(head, keras.optimizers.Adam(learning_rate), label_smoothing)
    batch_size = batch_size or int(np.clip(len(rows["train"]) // 500, 128, 2048))
    parts = {
        split: _rows_dataset(features, targets[split], rows[split], batch_size, split == "train", seed)
        for split in rows
    }
    stop = keras.callbacks.EarlyStopping(
        monitor="val_loss", patience=patience, restore_best_weights=True, start_from_epoch=1
    )
    nan = StopOnNaN()
    fitted = head.fit(
        parts["train"],
        validation_data=parts["val"],
        epochs=epochs,
        verbose=0,
        shuffle=False,
        callbacks=[nan, stop],
        class_weight=_class_weight(targets["train"], class_weight),
    )
    nan.check()
    return _history(fitted.history, "head").assign(learning_rate=learning_rate)


def _one_hot(labels: pd.Series, rows: dict[str, np.ndarray], names: list[str]) -> dict[str, np.ndarray]:
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


def _history(history: dict[str, list[float]], stage: str, *, first: int = 1) -> pd.DataFrame:
    table = pd.DataFrame(history)
    table.insert(0, "epoch", np.arange(first, first + len(table)))
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
    stored_views: int = 0,
    keep: str = "best",
    log_dir: Path | None = None,
    seed: int = 0,
    verbose: int = 1,
) -> pd.DataFrame:
    """Stage 2: train the blocks after `fine_tune_from` and the head, on augmented pictures, in place.

    The weights of the lowest validation loss are kept, those of stage 1 included: where fine-tuning does not help,
    nothing is lost. A killed run that is started again with the same arguments goes on at its epoch. Several visible
    GPUs share each batch; on those that have bfloat16 it computes in mixed precision.

    Args:
        model: a classifier whose head is trained (`train_head`).
        table: the images table with `split`; `test` is not looked at.
        labels: N class names; rows with a missing one are left out.
        data_dir: the folder that `path` is relative to.
        work_dir: for backup, best weights, a log and stored views while it runs, in a folder for each set of arguments.
        fine_tune_from: last frozen block; BatchNorm stays frozen everywhere.
        epochs: passes over the training images.
        batch_size: pictures a step.
        learning_rate: peak of SGD with momentum 0.9: a tenth of the steps of warm-up, then cosine decay.
        label_smoothing: as in `train_head`.
        class_weight: as in `train_head`.
        augmented: see `augment`.
        stored_views: 0: every epoch augments anew, and computes the frozen lower part anew. V: the lower part is
            computed once for V augmentations of each training picture and kept on disk while this runs (444 KB a
            picture and view at `mixed7`); an epoch draws one of them for each picture. Pays where epochs > V.
        keep: "best" weights by validation loss, or those of the "last" epoch.
        log_dir: for TensorBoard; none by default.
        seed: of order, augmentation and dropout.
        verbose: as in Keras.

    Returns:
        One row an epoch, as from `train_head`.

    Raises:
        ValueError: as `train_head`, or there is no such block.
        FloatingPointError: the loss became NaN; the model keeps the best weights so far.
        OSError: too little room for the stored views.
    """
    usable = labels.notna().to_numpy() & table["problem"].eq("").to_numpy()
    rows = {split: np.flatnonzero(usable & table["split"].eq(split).to_numpy()) for split in ("train", "val")}
    targets = _one_hot(labels, rows, classifiers.class_names(model))
    paths = {split: [dataset.file_path(data_dir, p) for p in table["path"].iloc[some]] for split, some in rows.items()}
    chosen = table.iloc[np.concatenate(list(rows.values()))]
    facts = [fine_tune_from, epochs, batch_size, learning_rate, label_smoothing, class_weight, augmented, stored_views]
    facts += [seed, engine.identity(model), runs.fingerprint(chosen, labels.loc[chosen.index] + chosen["split"])]
    work_dir = Path(work_dir) / hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    done = _resumed(work_dir)
    keras.utils.set_random_seed(seed)
    classifiers.seed_dropout(model, seed=seed)
    classifiers.unfreeze_from(model, fine_tune_from)
    inputs = {"batch_size": batch_size, "seed": seed}
    if stored_views:
        trained = boundary.upper_model(model, fine_tune_from)
        train, val = _stored_datasets(
            model, fine_tune_from, paths, targets, work_dir / "boundary", stored_views if augmented else 0, **inputs
        )
    else:
        trained, inputs["size"] = model, classifiers.image_size(model)
        train = picture_dataset(paths["train"], targets["train"], shuffled=True, augmented=augmented, **inputs)
        val = picture_dataset(paths["val"], targets["val"], **inputs)
    steps = epochs * max(1, -(-len(paths["train"]) // batch_size))
    copy = _compiled_copy(trained, _sgd(learning_rate, steps), label_smoothing)
    before = copy.evaluate(val, verbose=0, return_dict=True)["loss"]
    if not len(done):
        copy.save_weights(work_dir / "epoch-000.weights.h5")
    nan = StopOnNaN()
    fitted = copy.fit(
        train,
        validation_data=val,
        epochs=epochs,
        verbose=verbose,
        shuffle=False,
        callbacks=[nan, *_callbacks(work_dir, min([before, *done.get("val_loss", [])]), log_dir)],
        class_weight=_class_weight(targets["train"], class_weight),
    )
    best = max(work_dir.glob("epoch-*.weights.h5"))
    if keep == "best" or nan.where:
        with warnings.catch_warnings():  # the state of the optimizer, which is of no more use, does not match
            warnings.simplefilter("ignore", UserWarning)
            copy.load_weights(best)
    if copy is not trained:
        trained.set_weights(copy.get_weights())
    classifiers.freeze_backbone(model)
    nan.check(f"The best weights so far are in the model and in {best}.")
    history = pd.concat([done, _history(fitted.history, "fine-tune", first=len(done) + 1)], ignore_index=True)
    shutil.rmtree(work_dir)
    return history


def _resumed(work_dir: Path) -> pd.DataFrame:
    """History of the epochs that a killed run of the same arguments has finished; what it had begun is removed."""
    state, log = work_dir / "backup" / "training_metadata.json", work_dir / "epochs.csv"
    epochs = json.loads(state.read_text())["epoch"] if state.exists() and log.exists() else 0
    work_dir.mkdir(parents=True, exist_ok=True)
    for weights in work_dir.glob("epoch-*.weights.h5"):
        if not epochs or int(weights.name[6:9]) > epochs:
            weights.unlink()
    history = pd.read_csv(log)[:epochs] if epochs else pd.DataFrame()
    log.unlink(missing_ok=True)
    if epochs:
        history.to_csv(log, index=False)
        return _history(history.drop(columns="epoch").to_dict("list"), "fine-tune")
    return history


def _callbacks(work_dir: Path, threshold: float, log_dir: Path | None) -> list[keras.callbacks.Callback]:
    """Best weights, log and, last, the backup: an epoch counts as finished when the other two are on disk."""
    best = keras.callbacks.ModelCheckpoint(
        work_dir / "epoch-{epoch:03d}.weights.h5",
        monitor="val_loss",
        save_best_only=True,
        save_weights_only=True,
        initial_value_threshold=threshold,
    )
    log = keras.callbacks.CSVLogger(work_dir / "epochs.csv", append=True)
    board = [] if log_dir is None else [keras.callbacks.TensorBoard(log_dir)]
    return [RecordLearningRate(), *board, best, log, keras.callbacks.BackupAndRestore(work_dir / "backup")]


def _compiled_copy(model: keras.Model, optimizer: keras.Optimizer, label_smoothing: float) -> keras.Model:
    """`model` itself, compiled; where there are GPUs a copy in mixed precision, mirrored on all of them."""
    strategy = _strategy()
    if not isinstance(strategy, tf.distribute.MirroredStrategy):
        compile_classifier(model, optimizer, label_smoothing)
        return model
    with strategy.scope():
        copy = engine.in_half_precision(model, _training_policy())
        compile_classifier(copy, type(optimizer).from_config(optimizer.get_config()), label_smoothing)
    return copy


def _training_policy() -> str:
    """bfloat16 where every GPU has it in hardware (from Ampere on), else float32.

    float16 needs a scaled loss, and Keras' LossScaleOptimizer makes weights NaN under MirroredStrategy (3.15).
    """
    gpus = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    modern = all(gpu.get("compute_capability", (0, 0)) >= (8, 0) for gpu in gpus)
    return "mixed_bfloat16" if modern else "float32"


def _strategy() -> tf.distribute.Strategy:
    gpus = tf.config.list_logical_devices("GPU")
    return tf.distribute.MirroredStrategy() if gpus else tf.distribute.get_strategy()


def _sgd(learning_rate: float, steps: int) -> keras.Optimizer:
    """Momentum 0.9; a tenth of the steps of warm-up, then cosine decay (Loshchilov and Hutter 2017)."""
    warm_up = max(1, steps // 10)
    schedule = keras.optimizers.schedules.CosineDecay(
        learning_rate / 10, max(1, steps - warm_up), warmup_target=learning_rate, warmup_steps=warm_up
    )
    return keras.optimizers.SGD(schedule, momentum=0.9)


def _stored_datasets(
    model: keras.Model,
    block: str,
    paths: dict[str, list[Path]],
    targets: dict[str, np.ndarray],
    folder: Path,
    augmentations: int,
    *,
    batch_size: int,
    seed: int,
) -> tuple[tf.data.Dataset, tf.data.Dataset]:
    """Training pictures in so many augmentations (0: as they are) and validation pictures, up to `block`."""

    def change(pixels: np.ndarray, key: tuple[int, int]) -> np.ndarray:
        return augment(tf.constant(pixels), tf.constant(key)).numpy()

    options = {"augment": change, "views": augmentations, "seed": seed} if augmentations else {}
    train = boundary.store_boundary(model, block, paths["train"], folder / "train", **options)
    val = boundary.store_boundary(model, block, paths["val"], folder / "val")
    return (
        boundary.boundary_dataset(train, targets["train"], batch_size=batch_size, shuffled=True, seed=seed),
        boundary.boundary_dataset(val, targets["val"], batch_size=batch_size),
    )


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

    def read(position: int) -> np.ndarray:
        try:
            return images.load_image(paths[position], size=size)
        except images.ImageProblem as problem:
            raise ValueError(f"{paths[position]} can no longer be read ({problem}). Scan again.") from problem

    def load(position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pixels = tf.numpy_function(read, [position], tf.uint8)
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
    forward = engine.forward_pass(model, pictures=len(table))
    found = np.full((len(table), model.output_shape[-1]), np.nan, np.float32)
    paths = [dataset.file_path(data_dir, path) for path in table["path"]]
    with tqdm(total=len(paths), desc="predictions", unit="img", disable=not progress) as bar:
        for positions, pixels, problems in decoded_batches(paths, size=model.input_shape[1], batch_size=batch_size):
            if len(positions):
                found[positions] = forward(pixels)[0]
            bar.update(len(positions) + len(problems))
    return found


def predictions_table(table: pd.DataFrame, pred_probs: np.ndarray, class_names: Sequence[str]) -> pd.DataFrame:
    """`path`, `split`, one column of probabilities a class: what `predictions.parquet` holds."""
    probabilities = pd.DataFrame(pred_probs, columns=list(class_names), index=table.index)
    return pd.concat([table[["path", "split"]], probabilities], axis=1).reset_index(drop=True)


# ------------------------------------------------------------------------------------------------ cost and promise
def forecast(
    model: keras.Model,
    table: pd.DataFrame,
    data_dir: Path,
    *,
    cache_dir: Path,
    blocks: Sequence[str],
    fine_tune_from: str = "mixed7",
    fine_tune_epochs: int = 2,
    stored_views: int = 0,
    sample: int = 16,
) -> pd.DataFrame:
    """What training will cost on this machine, from `sample` pictures decoded and sent through the network now.

    One row a step: `step`, `images` (passes included), `seconds_per_image`, `minutes`. The backward pass through a
    layer is counted as twice its forward pass. Compiling, some tens of seconds, is not counted.
    """
    usable = table[table["problem"].eq("") & table["split"].ne("")]
    chosen = usable.sample(min(sample, len(usable)), random_state=0)
    paths = [dataset.file_path(data_dir, path) for path in chosen["path"]]
    _, pixels, _ = next(decoded_batches(paths, size=classifiers.image_size(model), batch_size=sample))
    started = time.perf_counter()
    for _ in decoded_batches(paths, size=classifiers.image_size(model), batch_size=sample):
        pass
    decode = (time.perf_counter() - started) / len(paths)
    passes = (engine.forward_pass(model, [block], pictures=sample) for block in (blocks[-1], fine_tune_from))
    whole, lower = (_seconds(forward, pixels) for forward in passes)
    missing = len(missing_rows(model, table, cache_dir=cache_dir, blocks=blocks))
    train, held_out = usable["split"].eq("train").sum(), usable["split"].ne("train").sum()
    val = usable["split"].eq("val").sum()
    upper = max(whole - lower, 0.0)
    steps = [("features of the frozen backbone", missing, max(whole, decode))]
    if fine_tune_epochs and stored_views:
        steps += [("lower part, stored", stored_views * train + val, max(lower, decode))]
        steps += [
            ("fine-tuning", fine_tune_epochs * train, 3 * upper),
            ("validation", (fine_tune_epochs + 1) * val, upper),
        ]
    elif fine_tune_epochs:
        steps += [("fine-tuning", fine_tune_epochs * train, decode + whole + 2 * upper)]
        steps += [("validation", (fine_tune_epochs + 1) * val, decode + whole)]
    steps += [("predictions", held_out, max(whole, decode))]
    plan = pd.DataFrame(steps, columns=["step", "images", "seconds_per_image"])
    return plan.assign(minutes=plan["images"] * plan["seconds_per_image"] / 60)


def _seconds(forward: engine.Forward, pixels: np.ndarray) -> float:
    """Seconds a picture of the second pass: the first one compiles."""
    forward(pixels)
    started = time.perf_counter()
    forward(pixels)
    return (time.perf_counter() - started) / len(pixels)


def learning_curve(
    features: np.ndarray,
    labels: pd.Series,
    splits: pd.Series,
    *,
    groups: pd.Series | None = None,
    fractions: Sequence[float] = (0.1, 0.2, 0.4, 0.7, 1.0),
    repeats: int = 3,
    seed: int = 0,
) -> pd.DataFrame:
    """What would more data gain? Validation accuracy of a logistic head on growing shares of the training images.

    Args:
        features: float (N, D); rows with NaN are left out.
        labels: N class names; missing ones are left out.
        splits: N of "train", "val", "test"; `test` is not looked at.
        groups: N near-duplicate groups, drawn whole; every row for itself by default.
        fractions: shares of the training groups, 0 … 1.
        repeats: draws a share (the whole is fitted once).
        seed: of the draws.

    Returns:
        One row a fit: `images` (trained on), `repeat`, `accuracy` and `log_loss` on validation.
    """
    labels, splits = labels.reset_index(drop=True), splits.reset_index(drop=True)
    usable = labels.notna() & ~np.isnan(features[:, 0])
    train, val = (np.flatnonzero(usable & splits.eq(split)) for split in ("train", "val"))
    names = sorted(labels[train].unique())
    val = val[labels[val].isin(names)]
    if not len(val) or len(names) < 2:
        raise ValueError(f"Expected validation images and two classes. Received: {len(val)} images, classes {names}.")
    group = np.arange(len(labels)) if groups is None else pd.factorize(groups.reset_index(drop=True))[0]
    target = pd.Index(names).get_indexer(labels[val])
    strength = label_issues.fit_head(features[train], labels[train], groups=group[train], seed=seed).C
    rows = []
    for repeat, fraction in ((r, f) for r in range(repeats) for f in fractions if f < 1 or r == 0):
        rng = np.random.default_rng([seed, repeat])
        order = rng.permutation(np.unique(group[train]))
        chosen = train[np.isin(group[train], order[: max(len(names), round(fraction * len(order)))])]
        head = label_issues.fit_head(features[chosen], labels[chosen], classes=names, C=strength)
        probs = np.clip(head.predict_proba(features[val]), 1e-6, None)
        loss = -np.log(probs[np.arange(len(val)), target] / probs.sum(axis=1)).mean()
        rows.append((len(chosen), repeat, float((probs.argmax(axis=1) == target).mean()), float(loss)))
    return pd.DataFrame(rows, columns=["images", "repeat", "accuracy", "log_loss"])
