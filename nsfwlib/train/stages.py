"""How are the upper blocks trained, without losing what the head knows? Gently, on augmented pictures.

It looks at pixels again, starts from the fitted head and moves the backbone little (LP-FT, Kumar et al. 2022); the mean
of the weights before and after is a candidate, too (WiSE-FT, Wortsman et al. 2022).
"""

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from nsfwlib import runs
from nsfwlib._tensorflow import keras, tf
from nsfwlib.files import file_path
from nsfwlib.model import (
    class_names,
    decoded_batches,
    find_blocks,
    freeze_backbone,
    image_size,
    in_half_precision,
    model_identity,
    seed_dropout,
    unfreeze_from,
)
from nsfwlib.train.head import compile_classifier, one_hot, row_weights
from nsfwlib.train.keeping import Keep, resumed, save_whole

KEPT = 1 << 30  # bytes at most of what leaves the frozen layers for `val`, kept in memory
BODY = 0.1  # share of the head's rate at which the backbone's last stage learns, and each stage of the one above it
RATES, STEPS = (1e-5, 1.0), 60  # of `try_rates`: those of the first and the last step
# Of `augment`: ± degrees, share of the side, tangent, share, and grey levels.
ROTATION, SHIFT, SHEAR, ZOOM, CHANNEL_SHIFT = 30.0, 0.2, 0.2, 0.2, 20.0


def fine_tune(
    model: keras.Model,
    table: pd.DataFrame,
    labels: pd.Series,
    data_dir: Path,
    *,
    work_dir: Path,
    keep: bool = False,
    fine_tune_from: str = "mixed7",
    epochs: int = 2,
    patience: int = 2,
    batch_size: int = 16,
    learning_rate: float = 1e-3,
    label_smoothing: float = 0.0,
    class_weight: str | None = None,
    weights: np.ndarray | None = None,
    augmented: bool = True,
    seed: int = 0,
    verbose: int = 1,
    on_epoch: Callable[[pd.DataFrame], object] | None = None,
) -> pd.DataFrame:
    """Stage 2: train the blocks after `fine_tune_from` and the head, on augmented pictures, in place.

    The weights of the lowest validation loss are kept: those of stage 1, of an epoch, or the mean of both. A run that
    was killed or interrupted and is started again with the same arguments goes on at its epoch. Several visible GPUs
    share each batch; on those that have bfloat16 it computes in mixed precision.

    Args, others as in `train.train_head`:
        model: a classifier whose head is trained.
        table: the images table with `split`.
        data_dir: the folder that `path` is relative to.
        work_dir: for weights and a log while it runs, in a folder for each set of arguments.
        keep: leave that folder, for the caller to clear once the model is saved: the same call finds its result there.
        fine_tune_from: last frozen block; BatchNorm stays frozen everywhere.
        epochs: passes over the training images, at most.
        patience: epochs without a lower validation loss after which it stops.
        learning_rate: peak of SGD with momentum 0.9, for the head: a tenth of the steps of warm-up, then cosine decay.
            Each stage of the backbone (`model.find_blocks`) learns at `BODY` of the one above.
        label_smoothing: 0 … 1, spread evenly over the classes (Szegedy et al. 2016, section 7).
        augmented: see `augment`.
        seed: of order, augmentation and dropout.
        on_epoch: called after each epoch with the rows so far, to draw them.

    Returns:
        One row an epoch, as from `train.train_head`, and one of stage "average": of stage 1 and the best epoch.

    Raises:
        ValueError: as `train.train_head`, or there is no such block.
        FloatingPointError: the loss became NaN; the model keeps the best weights so far.
        KeyboardInterrupt: somebody stopped it; the model has the weights of before.
    """
    usable = labels.notna().to_numpy() & table["problem"].eq("").to_numpy()
    rows = {split: np.flatnonzero(usable & table["split"].eq(split).to_numpy()) for split in ("train", "val")}
    targets = one_hot(labels, rows, class_names(model))
    weights = np.ones(len(table)) if weights is None else np.asarray(weights)
    counts = [row_weights(targets["train"], weights[rows["train"]], class_weight)]
    counts += [row_weights(targets["val"], weights[rows["val"]])]
    chosen = table.iloc[np.concatenate(list(rows.values()))]
    facts = [fine_tune_from, epochs, patience, batch_size, learning_rate, label_smoothing, augmented, seed]
    facts += [hashlib.sha256(np.concatenate(counts)).hexdigest(), model_identity(model)]
    facts += [runs.fingerprint(chosen, labels.loc[chosen.index] + chosen["split"])]
    work_dir = Path(work_dir) / hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    done = resumed(work_dir)
    keras.utils.set_random_seed(seed)
    seed_dropout(model, seed=seed)
    unfreeze_from(model, fine_tune_from)
    pictures = partial(picture_dataset, model, data_dir, batch_size=batch_size, seed=seed)
    train = pictures(table["path"].iloc[rows["train"]], targets["train"], counts[0], shuffled=True, augmented=augmented)
    val = pictures(table["path"].iloc[rows["val"]], targets["val"], counts[1])
    steps = -(-len(rows["train"]) // batch_size)
    warm_up = max(1, epochs * steps // 10)
    schedule = keras.optimizers.schedules.CosineDecay(  # Loshchilov and Hutter 2017
        learning_rate / 10, max(1, epochs * steps - warm_up), warmup_target=learning_rate, warmup_steps=warm_up
    )
    copy, start = _compiled_copy(model, schedule, label_smoothing), model.get_weights()

    def so_far(kept: Keep) -> pd.DataFrame:
        halfway = (kept.history["epoch"] - 0.5) * steps
        return kept.history.assign(learning_rate=[float(schedule(step)) for step in halfway])

    try:
        if not len(done):
            save_whole(copy, work_dir / "epoch-000.weights.h5")
        kept = Keep(work_dir, _measure(copy, val, pictures=len(rows["val"])), done, patience)
        told = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: on_epoch and on_epoch(so_far(kept)))
        span = {"initial_epoch": len(done), "epochs": len(done) if kept.is_over() else epochs}
        copy.fit(train, **span, verbose=verbose, shuffle=False, callbacks=[kept, told])
        average = _keep_best(copy, kept)
    except KeyboardInterrupt:
        model.set_weights(start)  # half-trained ones would be another model, whose work is not found again
        raise
    finally:
        freeze_backbone(model)
    if copy is not model:
        model.set_weights(copy.get_weights())
    if kept.nan:
        raise FloatingPointError(
            f"The loss is no longer a number since {kept.nan}. The best weights so far are in the model and in "
            f"{kept.best()}. Try a smaller learning_rate."
        )
    if not keep:
        shutil.rmtree(work_dir)
    return pd.concat([so_far(kept), average], ignore_index=True)


def try_rates(
    model: keras.Model,
    table: pd.DataFrame,
    labels: pd.Series,
    data_dir: Path,
    *,
    fine_tune_from: str = "mixed7",
    batch_size: int = 16,
    seed: int = 0,
) -> pd.DataFrame:
    """The loss of stage 2 while its rate rises from step to step: the range test of Smith (2017, section 3.3).

    A good `learning_rate` lies where the loss falls, well below where it rises again. The model is left as it was.
    Arguments are as in `fine_tune`. Over `STEPS` batches the rate grows by one factor through `RATES`; it ends earlier
    once the loss is four times its least. One row a step: `learning_rate`, `loss` (a running mean, of about ten steps).
    """
    rows = np.flatnonzero(labels.notna() & table["problem"].eq("") & table["split"].eq("train"))
    targets = one_hot(labels, {"train": rows, "val": rows}, class_names(model))["train"]
    how = {"batch_size": batch_size, "seed": seed, "shuffled": True, "augmented": True}
    pictures = picture_dataset(model, data_dir, table["path"].iloc[rows], targets, np.ones(len(rows)), **how)
    keras.utils.set_random_seed(seed)
    seed_dropout(model, seed=seed)
    unfreeze_from(model, fine_tune_from)
    growth = (RATES[1] / RATES[0]) ** (1 / (STEPS - 1))
    losses, start = [], model.get_weights()
    copy = _compiled_copy(model, keras.optimizers.schedules.ExponentialDecay(RATES[0], 1, growth), 0.0)

    def running() -> pd.Series:
        return pd.Series(losses, dtype=float).ewm(span=10).mean()

    def note(batch: int, logs: dict[str, float]) -> None:
        losses.append(logs["loss"])
        copy.reset_metrics()  # else Keras tells the mean of all pictures so far
        copy.stop_training = not running().iloc[-1] < 4 * running().min()

    try:
        noted = keras.callbacks.LambdaCallback(on_train_batch_end=note)
        copy.fit(pictures.repeat().take(STEPS), steps_per_epoch=STEPS, verbose=0, shuffle=False, callbacks=[noted])
    finally:
        model.set_weights(start)
        freeze_backbone(model)
    return pd.DataFrame({"learning_rate": RATES[0] * growth ** np.arange(len(losses)), "loss": running()})


def _measure(model: keras.Model, val: tf.data.Dataset, *, pictures: int) -> Callable[[], dict[str, float]]:
    """What tells loss and accuracy of `model` on `val`; on one processor its frozen layers see each picture once."""
    still, edge = {model.layers[0]}, {}
    for layer in model.layers[1:]:
        given = {each._keras_history.operation: each for each in keras.tree.flatten(layer.input)}
        if layer.trainable_weights or given.keys() - still:
            edge |= {source: each for source, each in given.items() if source in still}
        else:
            still.add(layer)
    lower = keras.Model(model.input, list(edge.values()))
    shared = isinstance(model.distribute_strategy, tf.distribute.MirroredStrategy)
    if shared or pictures * sum(4 * np.prod(part.shape[1:]) for part in lower.outputs) > KEPT:
        return partial(model.evaluate, val, verbose=0, return_dict=True)
    upper = keras.Model(lower.outputs, model.output)
    upper.compile(loss=model.loss, metrics=["accuracy"])
    seen = [(tuple(keras.tree.flatten(lower.predict_on_batch(pixels))), *rest) for pixels, *rest in val]
    return lambda: upper.evaluate((batch for batch in seen), steps=len(seen), verbose=0, return_dict=True)


def _keep_best(model: keras.Model, kept: Keep) -> pd.DataFrame:
    """Put the best weights into the model: of stage 1, of an epoch, or the mean of both, whose row is returned."""
    first, best = kept.file(0), kept.best()
    tuned = max(kept.work_dir.glob("epoch-*.weights.h5")) if best == first else best
    ends = []
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # the optimizer's state does not match
        for file in (first, tuned):
            model.load_weights(file)
            ends.append(model.get_weights())
    model.set_weights([(one + other) / 2 for one, other in zip(*ends, strict=True)])
    measured = kept.measure()
    if not measured["loss"] < kept.losses().min():
        model.set_weights(ends[best != first])
    return pd.DataFrame([{"stage": "average", "epoch": 1} | {f"val_{name}": value for name, value in measured.items()}])


def _shares(model: keras.Model) -> dict[str, float]:
    """Share of the head's rate by path of each trainable weight: `BODY` to the power of its stage, from the top."""
    names = [layer.name for layer in model.layers]
    ends = [names.index(block) for block in find_blocks(model)]
    return {
        weight.path: BODY ** sum(i <= end for end in ends)
        for i, layer in enumerate(model.layers)
        for weight in layer.trainable_weights
    }


class Layerwise(keras.optimizers.SGD):
    """SGD with momentum 0.9 whose rate is multiplied, weight by weight, by `shares`: path → share."""

    def __init__(self, learning_rate: Callable[[int], tf.Tensor], shares: dict[str, float]) -> None:
        super().__init__(learning_rate, momentum=0.9)
        self.shares = shares

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        """Called by Keras."""
        path = self._trainable_variables[self._get_variable_index(variable)].path
        super().update_step(gradient, variable, learning_rate * self.shares[path])


def _compiled_copy(model: keras.Model, schedule: Callable[[int], tf.Tensor], label_smoothing: float) -> keras.Model:
    """`model` itself, compiled; where there are GPUs a copy in mixed precision, mirrored on all of them."""
    strategy = _strategy()
    with strategy.scope():
        if isinstance(strategy, tf.distribute.MirroredStrategy):
            # bfloat16 where every GPU has it in hardware (from Ampere on). float16 needs a scaled loss, and Keras'
            # LossScaleOptimizer makes weights NaN under MirroredStrategy (3.15).
            gpus = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
            modern = all(gpu.get("compute_capability", (0, 0)) >= (8, 0) for gpu in gpus)
            model = in_half_precision(model, "mixed_bfloat16" if modern else "float32")
        compile_classifier(model, Layerwise(schedule, _shares(model)), label_smoothing)
    return model


def _strategy() -> tf.distribute.Strategy:
    gpus = tf.config.list_logical_devices("GPU")
    return tf.distribute.MirroredStrategy() if gpus else tf.distribute.get_strategy()


def picture_dataset(
    model: keras.Model,
    data_dir: Path,
    paths: Sequence[str],
    targets: np.ndarray,
    weights: np.ndarray,
    *,
    batch_size: int,
    shuffled: bool = False,
    augmented: bool = False,
    seed: int = 0,
) -> tf.data.Dataset:
    """Batches (float32 RGB 0–255 (b, size, size, 3), one-hot (b, K), weights (b,)), decoded ahead."""
    rng, size, files = np.random.default_rng(seed), image_size(model), [file_path(data_dir, path) for path in paths]

    def batches() -> Iterator[tuple[np.ndarray, ...]]:
        order = rng.permutation(len(files)) if shuffled else np.arange(len(files))
        for positions, pixels, problems in decoded_batches([files[i] for i in order], size=size, batch_size=batch_size):
            if problems:
                raise ValueError(f"A picture can no longer be read. Scan again (01_explore_data). {problems[0]}")
            rows = order[positions]
            yield pixels, targets[rows], weights[rows], rng.integers(2**31, size=2)

    def finished(pixels: tf.Tensor, target: tf.Tensor, weight: tf.Tensor, key: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return augment(pixels, key) if augmented else tf.cast(pixels, tf.float32), target, weight

    shapes = [((None, size, size, 3), tf.uint8), ((None, targets.shape[1]), tf.float32)]
    shapes += [((None,), tf.float32), ((2,), tf.int64)]
    stream = tf.data.Dataset.from_generator(batches, output_signature=tuple(tf.TensorSpec(*shape) for shape in shapes))
    counted = stream.apply(tf.data.experimental.assert_cardinality(-(-len(files) // batch_size)))
    return counted.map(finished).prefetch(2)


def augment(pixels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """The augmentation of 2019 as one resampling: RGB 0–255 (B, S, S, 3) → float32 of the same shape and range.

    Rotation, shift, shear, zoom, one brightness shift a picture, flip. `seed` is two integers; edges are repeated.
    """
    count, side = tf.shape(pixels)[0], tf.cast(tf.shape(pixels)[1], tf.float32)
    draw = tf.random.stateless_uniform((7, count), seed, -1.0, 1.0)
    angle = draw[0] * (ROTATION * np.pi / 180)
    scale, flip = 1 + ZOOM * draw[1], tf.sign(draw[2])
    cos, sin = tf.cos(angle) * scale, tf.sin(angle) * scale
    a, b = cos * flip, (SHEAR * draw[3] * cos - sin)
    c, d = sin * flip, (SHEAR * draw[3] * sin + cos)
    centre = (side - 1) / 2
    x = centre - a * centre - b * centre + SHIFT * side * draw[4]
    y = centre - c * centre - d * centre + SHIFT * side * draw[5]
    matrix = tf.stack([a, b, x, c, d, y, tf.zeros(count), tf.zeros(count)], axis=1)
    moved = keras.ops.image.affine_transform(
        tf.cast(pixels, tf.float32), matrix, interpolation="bilinear", fill_mode="nearest"
    )
    return tf.clip_by_value(moved + (CHANNEL_SHIFT * draw[6])[:, None, None, None], 0.0, 255.0)
