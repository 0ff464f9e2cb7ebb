"""How are the upper blocks trained? On augmented pictures, or on stored outputs of the blocks below them.

Fine-tuning changes the backbone, so it looks at pixels again, where `train.train_head` needs them once.
"""

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from nsfwlib import runs
from nsfwlib._tensorflow import keras, tf
from nsfwlib.files import file_path
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
from nsfwlib.train.head import StopOnNaN, class_weights, compile_classifier, one_hot, rows_dataset
from nsfwlib.train.keeping import Keep, resumed, save_whole


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
    batch_size: int = 16,
    learning_rate: float = 1e-3,
    label_smoothing: float = 0.0,
    class_weight: str | None = None,
    augmented: bool = True,
    stored_views: int = 0,
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
        work_dir: for weights, a log and stored views while it runs, in a folder for each set of arguments.
        keep: leave that folder where it is, for the caller to clear once the model is saved: until then the same call
            finds its result there.
        fine_tune_from: last frozen block; BatchNorm stays frozen everywhere.
        learning_rate: peak of SGD with momentum 0.9: a tenth of the steps of warm-up, then cosine decay.
        label_smoothing: as in `train.train_head`, as is `class_weight`.
        augmented: see `augment`.
        stored_views: 0: every epoch augments anew, and computes the frozen lower part anew. V: the lower part is
            computed once for V augmentations of each training picture and kept on disk while this runs (444 KB a
            picture and view at `mixed7`); an epoch draws one of them for each picture. Pays where epochs > V.
        seed: of order, augmentation and dropout.

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
    done = resumed(work_dir)
    keras.utils.set_random_seed(seed)
    seed_dropout(model, seed=seed)
    unfreeze_from(model, fine_tune_from)
    inputs = {"batch_size": batch_size, "seed": seed}
    if stored_views:
        trained, views = upper_model(model, fine_tune_from), {"train": stored_views if augmented else 0, "val": 0}
        train, val = (
            rows_dataset(
                store_lower(model, fine_tune_from, some, work_dir / "lower" / split, views=views[split], seed=seed),
                targets[split],
                np.arange(max(views[split], 1) * len(some)).reshape(len(some), -1).T,
                shuffled=split == "train",
                **inputs,
            )
            for split, some in paths.items()
        )
    else:
        trained, inputs["size"] = model, image_size(model)
        train = picture_dataset(paths["train"], targets["train"], shuffled=True, augmented=augmented, **inputs)
        val = picture_dataset(paths["val"], targets["val"], **inputs)
    steps = -(-len(paths["train"]) // batch_size)
    warm_up = max(1, epochs * steps // 10)
    decay = max(1, epochs * steps - warm_up)
    schedule = keras.optimizers.schedules.CosineDecay(  # Loshchilov and Hutter 2017
        learning_rate / 10, decay, warmup_target=learning_rate, warmup_steps=warm_up
    )
    copy = _compiled_copy(trained, schedule, label_smoothing)
    before = copy.evaluate(val, verbose=0, return_dict=True)["loss"]
    if not len(done):
        save_whole(copy, work_dir / "epoch-000.weights.h5")
    nan, kept = StopOnNaN(), Keep(work_dir, before, done)
    copy.fit(
        train,
        validation_data=val,
        epochs=epochs,
        initial_epoch=len(done),
        verbose=verbose,
        shuffle=False,
        callbacks=[nan, kept],
        class_weight=class_weights(targets["train"], class_weight),
    )
    best = kept.best()
    with warnings.catch_warnings():  # the state of the optimizer, which is of no more use, does not match
        warnings.simplefilter("ignore", UserWarning)
        copy.load_weights(best)
    trained.set_weights(copy.get_weights())
    freeze_backbone(model)
    nan.check(f"The best weights so far are in the model and in {best}.")
    if not keep:
        shutil.rmtree(work_dir)
    return kept.history.assign(learning_rate=[float(schedule(epoch * steps)) for epoch in kept.history["epoch"]])


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
        compile_classifier(model, keras.optimizers.SGD(schedule, momentum=0.9), label_smoothing)
    return model


def _strategy() -> tf.distribute.Strategy:
    gpus = tf.config.list_logical_devices("GPU")
    return tf.distribute.MirroredStrategy() if gpus else tf.distribute.get_strategy()


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
    """Batches (float32 RGB 0–255 (b, size, size, 3), one-hot (b, K)), decoded ahead and never held together."""
    rng = np.random.default_rng(seed)

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        order = rng.permutation(len(paths)) if shuffled else np.arange(len(paths))
        for positions, pixels in _decoded([paths[i] for i in order], size=size, batch_size=batch_size):
            yield pixels, targets[order[positions]], rng.integers(2**31, size=2)

    def finished(pixels: tf.Tensor, target: tf.Tensor, key: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return augment(pixels, key) if augmented else tf.cast(pixels, tf.float32), target

    shapes = ((None, size, size, 3), tf.uint8), ((None, targets.shape[1]), tf.float32), ((2,), tf.int64)
    stream = tf.data.Dataset.from_generator(batches, output_signature=tuple(tf.TensorSpec(*shape) for shape in shapes))
    counted = stream.apply(tf.data.experimental.assert_cardinality(-(-len(paths) // batch_size)))
    return counted.map(finished).prefetch(2)


def _decoded(paths: Sequence[Path], **options: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions and pixels of `model.decoded_batches`, all of which must be readable."""
    for positions, pixels, problems in decoded_batches(paths, **options):
        if problems:
            raise ValueError(f"A picture can no longer be read. Scan again (01_explore_data). {problems[0]}")
        yield positions, pixels


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


def upper_model(model: keras.Model, block: str) -> keras.Model:
    """The part of `model` after `block`, *sharing* its layers: training it trains the classifier.

    Raises:
        ValueError: what follows needs more than this block's output.
    """
    output = block_output(model, block)
    try:
        return keras.Model(output, model.output, name="upper")
    except ValueError:
        raise ValueError(
            f"The layers after {block!r} need more than its output, so nothing can be stored there. Choose the end of "
            "a block (mixed0 … mixed10 of InceptionV3), or stored_views=0."
        ) from None


def store_lower(
    model: keras.Model,
    block: str,
    paths: Sequence[Path],
    folder: Path,
    *,
    views: int = 0,
    batch_size: int = 32,
    seed: int = 0,
    progress: bool = True,
) -> np.ndarray:
    """Output of `block` for each view of each picture: float16 (N · views, H, W, C), memory-mapped in `folder`.

    All views of the first picture come first, then all of the second; a view is an augmentation, and with views=0
    there is one, the picture as it is. A killed pass goes on where it stopped; the caller gives each combination of
    weights, pictures and seed a folder of its own.

    Raises:
        OSError: there is not enough room on the disk; what was computed before is kept.
        ValueError: a picture can no longer be read.
    """
    part = keras.Model(model.input, block_output(model, block))
    shape = (max(views, 1), *part.output_shape[1:])  # of a picture
    file, width, forward = folder / "views.f16", 2 * int(np.prod(shape)), compiled(part)
    folder.mkdir(parents=True, exist_ok=True)
    start = file.stat().st_size // width if file.exists() else 0
    batches = _decoded(paths[start:], size=part.input_shape[1], batch_size=batch_size)
    options = {"total": len(paths), "initial": start, "desc": f"up to {block}", "unit": "img", "disable": not progress}
    need, free = (len(paths) - start) * width, shutil.disk_usage(folder).free
    try:
        if need > free:
            raise OSError(f"Expected {need / 1e9:.1f} GB of room in {folder}. Received: {free / 1e9:.1f} GB")
        with file.open("ab") as stored, tqdm(**options) as bar:
            stored.truncate(start * width)  # a kill may have cut the last one
            for positions, pixels in batches:
                drawn = [(seed + view, start + int(positions[0])) for view in range(views)]
                seen = [augment(tf.constant(pixels), key).numpy() for key in drawn] or [pixels]
                rows = np.stack([forward(some)[0] for some in seen], axis=1)
                stored.write(rows.astype(np.float16).tobytes())
                stored.flush()
                bar.update(len(positions))
    except OSError as error:
        raise OSError(
            f"What lies before {block} could not be stored: {error.strerror or error}. Free some room and run again: "
            f"what was computed stays in {folder}. Or use fewer stored views, or stored_views=0."
        ) from error
    return np.memmap(file, np.float16, "r", shape=(len(paths) * shape[0], *shape[1:]))
