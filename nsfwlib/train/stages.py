"""How are the upper blocks trained? On augmented pictures, or on what the frozen lower part made of stored views.

Fine-tuning changes the backbone, so it looks at pixels again, where `train.train_head` needs them once.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from nsfwlib import runs
from nsfwlib._tensorflow import keras, tf
from nsfwlib.data import ImageProblem, load_image
from nsfwlib.files import file_path, write_whole
from nsfwlib.model import (
    block_output,
    class_names,
    compiled,
    decoded_batches,
    freeze_backbone,
    image_size,
    in_half_precision,
    model_identity,
    seed_dropout,
    unfreeze_from,
)
from nsfwlib.train.head import StopOnNaN, class_weights, compile_classifier, history_table, one_hot


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
        model: a classifier whose head is trained (`train.train_head`).
        table: the images table with `split`; `test` is not looked at.
        labels: N class names; rows with a missing one are left out.
        data_dir: the folder that `path` is relative to.
        work_dir: for backup, best weights, a log and stored views while it runs, in a folder for each set of arguments.
        fine_tune_from: last frozen block; BatchNorm stays frozen everywhere.
        epochs: passes over the training images.
        batch_size: pictures a step.
        learning_rate: peak of SGD with momentum 0.9: a tenth of the steps of warm-up, then cosine decay.
        label_smoothing: as in `train.train_head`.
        class_weight: as in `train.train_head`.
        augmented: see `augment`.
        stored_views: 0: every epoch augments anew, and computes the frozen lower part anew. V: the lower part is
            computed once for V augmentations of each training picture and kept on disk while this runs (444 KB a
            picture and view at `mixed7`); an epoch draws one of them for each picture. Pays where epochs > V.
        keep: "best" weights by validation loss, or those of the "last" epoch.
        log_dir: for TensorBoard; none by default.
        seed: of order, augmentation and dropout.
        verbose: as in Keras.

    Returns:
        One row an epoch, as from `train.train_head`.

    Raises:
        ValueError: as `train.train_head`, or there is no such block.
        FloatingPointError: the loss became NaN; the model keeps the best weights so far.
        OSError: too little room for the stored views.
    """
    usable = labels.notna().to_numpy() & table["problem"].eq("").to_numpy()
    rows = {split: np.flatnonzero(usable & table["split"].eq(split).to_numpy()) for split in ("train", "val")}
    targets = one_hot(labels, rows, class_names(model))
    paths = {split: [file_path(data_dir, p) for p in table["path"].iloc[some]] for split, some in rows.items()}
    chosen = table.iloc[np.concatenate(list(rows.values()))]
    facts = [fine_tune_from, epochs, batch_size, learning_rate, label_smoothing, class_weight, augmented, stored_views]
    facts += [seed, model_identity(model), runs.fingerprint(chosen, labels.loc[chosen.index] + chosen["split"])]
    work_dir = Path(work_dir) / hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    done = _resumed(work_dir)
    keras.utils.set_random_seed(seed)
    seed_dropout(model, seed=seed)
    unfreeze_from(model, fine_tune_from)
    inputs = {"batch_size": batch_size, "seed": seed}
    if stored_views:
        trained = upper_model(model, fine_tune_from)
        train, val = _stored_datasets(
            model, fine_tune_from, paths, targets, work_dir / "boundary", stored_views if augmented else 0, **inputs
        )
    else:
        trained, inputs["size"] = model, image_size(model)
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
        class_weight=class_weights(targets["train"], class_weight),
    )
    best = max(work_dir.glob("epoch-*.weights.h5"))
    if keep == "best" or nan.where:
        with warnings.catch_warnings():  # the state of the optimizer, which is of no more use, does not match
            warnings.simplefilter("ignore", UserWarning)
            copy.load_weights(best)
    if copy is not trained:
        trained.set_weights(copy.get_weights())
    freeze_backbone(model)
    nan.check(f"The best weights so far are in the model and in {best}.")
    history = pd.concat([done, history_table(fitted.history, "fine-tune", first=len(done) + 1)], ignore_index=True)
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
        return history_table(history.drop(columns="epoch").to_dict("list"), "fine-tune")
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
        copy = in_half_precision(model, _training_policy())
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
    train = store_boundary(model, block, paths["train"], folder / "train", **options)
    val = store_boundary(model, block, paths["val"], folder / "val")
    return (
        boundary_dataset(train, targets["train"], batch_size=batch_size, shuffled=True, seed=seed),
        boundary_dataset(val, targets["val"], batch_size=batch_size),
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
            return load_image(paths[position], size=size)
        except ImageProblem as problem:
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


MARK_SECONDS = 10  # what a kill may cost


def upper_model(model: keras.Model, block: str) -> keras.Model:
    """The part of `model` after `block`, *sharing* its layers: training it trains the classifier.

    Raises:
        ValueError: what follows needs more than this block's output.
    """
    try:
        return keras.Model(block_output(model, block), model.output, name="upper")
    except ValueError as error:
        if "no block" in str(error):
            raise
        raise ValueError(
            f"The layers after {block!r} need more than its output, so it is no boundary. Choose the end of a block "
            f"(mixed0 … mixed10 of InceptionV3), or stored_views=0."
        ) from None


def boundary_bytes(model: keras.Model, block: str, rows: int) -> int:
    """Bytes on disk for the output of `block` of so many pictures."""
    return rows * int(np.prod(block_output(model, block).shape[1:])) * 2


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
    part = keras.Model(model.input, block_output(model, block))
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
        forward, marked = compiled(part), time.monotonic()
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
    with write_whole(state) as draft:
        draft.write_text(json.dumps(done))


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
