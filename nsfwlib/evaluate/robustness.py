"""Does the answer survive what happens to pictures on their way: compression, resizing, blur, mirroring, cropping?"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from PIL import Image, ImageFilter, ImageOps

from nsfwlib import runs
from nsfwlib.data import blurred_thumbnail, load_image
from nsfwlib.evaluate.confusion import class_codes
from nsfwlib.evaluate.intervals import share_interval
from nsfwlib.files import file_hash, file_path

if TYPE_CHECKING:
    import keras

Level = int | str
CHANGES: dict[str, tuple[Level, ...]] = {
    "JPEG quality": (90, 70, 50, 30, 10),
    "blur (px)": (1, 2, 4),
    "resize method": ("nearest", "bicubic", "lanczos"),
    "crop (% a side)": (2, 5, 10),
    "greyscale": ("yes",),
    "mirror": ("yes",),
}


def changed(picture: np.ndarray, change: str, level: Level, *, size: int) -> np.ndarray:
    """The picture after one change, at the model's input size: uint8 (size, size, 3).

    `picture` is uint8 (H, W, 3), `change` a key of CHANGES with one of its levels, or "none". Blur is in pixels of the
    input; everything else happens to the picture as it is.
    """
    image = Image.fromarray(picture)
    if change == "JPEG quality":
        image.save(buffer := io.BytesIO(), "JPEG", quality=int(level))
        image = Image.open(buffer)
    elif change == "resize method":
        return np.asarray(image.resize((size, size), Image.Resampling[str(level).upper()]))
    elif change == "crop (% a side)":
        x, y = image.width * int(level) / 100, image.height * int(level) / 100
        image = image.crop((round(x), round(y), round(image.width - x), round(image.height - y)))
    elif change == "greyscale":
        image = image.convert("L").convert("RGB")
    elif change == "mirror":
        image = ImageOps.mirror(image)
    image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image.filter(ImageFilter.GaussianBlur(int(level))) if change == "blur (px)" else image)


def measure_robustness(
    pictures: Sequence[np.ndarray],
    labels: Sequence[str],
    predict: Callable[[np.ndarray], np.ndarray],
    *,
    class_names: Sequence[str],
    size: int,
    groups: Sequence[int] | None = None,
) -> pd.DataFrame:
    """Accuracy under each change; every row costs one prediction of all the pictures, so pass a sample.

    Args:
        pictures: N of uint8 (H, W, 3), of any size.
        labels: (N,) class of each, one of the K `class_names`.
        predict: uint8 (N, size, size, 3) in, probabilities (N, K) out.
        groups: (N,) near-duplicate group of each picture.

    Returns:
        One row a change and level, the untouched pictures ("none") first: `change`, `level`, `value` (accuracy) with
        its 95 % interval `low`, `high`, `same` (share of pictures whose predicted class stays), `images`.
    """
    codes = class_codes(labels, class_names)
    untouched, rows = None, []
    for change, step in [("none", ""), *((name, step) for name, steps in CHANGES.items() for step in steps)]:
        pixels = np.stack([changed(picture, change, step, size=size) for picture in pictures])
        top = np.asarray(predict(pixels)).argmax(axis=1)
        untouched = top if untouched is None else untouched
        value, low, high, *_ = share_interval(top == codes, groups)
        rows.append((change, step, value, low, high, (top == untouched).mean(), len(codes)))
    return pd.DataFrame(rows, columns=["change", "level", "value", "low", "high", "same", "images"])


def heat_maps(model: keras.Model, pixels: np.ndarray, classes: Sequence[int], *, batch_size: int = 16) -> np.ndarray:
    """How much each region speaks for a class: float32 (N, h, w), 0 for not at all, 1 the most of its picture.

    Gradient of the class's log-probability by the pooled feature maps weighs their channels (Selvaraju et al.,
    Grad-CAM, 2017); the maps of all blocks that feed the head are summed on the grid of the finest. It shows where
    evidence lies, not why it counts. `pixels` are RGB 0–255 (N, S, S, 3), `classes` (N,) positions of the class to
    explain, such as a wrong answer.

    Raises:
        ValueError: the model is no classifier of this kit.
    """
    from nsfwlib._tensorflow import keras, tf
    from nsfwlib.model import block_output, head_blocks, head_model

    outputs, head = [block_output(model, block) for block in head_blocks(model)], head_model(model)
    body, grid = keras.Model(model.input, outputs), max(tuple(output.shape[1:3]) for output in outputs)
    heat = [np.zeros((0, *grid), np.float32)]
    for start in range(0, len(pixels), batch_size):
        part = slice(start, start + batch_size)
        maps = tf.nest.flatten(body(tf.constant(pixels[part], tf.float32), training=False))
        pooled = tf.concat([tf.reduce_mean(each, axis=(1, 2)) for each in maps], axis=1)
        with tf.GradientTape() as tape:
            tape.watch(pooled)
            probs = head(pooled, training=False)
            chosen = tf.gather(probs, tf.constant(classes[part], tf.int32), axis=1, batch_dims=1)
            evidence = tf.math.log(chosen + 1e-7)
        weights = tf.split(tape.gradient(evidence, pooled), [each.shape[-1] for each in maps], axis=1)
        shares = [tf.einsum("bhwc,bc->bhw", each, weight) for each, weight in zip(maps, weights, strict=True)]
        heat.append(tf.nn.relu(sum(tf.image.resize(share[..., None], grid) for share in shares))[..., 0].numpy())
    heat = np.concatenate(heat)
    return heat / np.maximum(heat.max(axis=(1, 2), keepdims=True, initial=0), 1e-12)


def baseline_answers(
    baseline: str, rows: pd.DataFrame, data_dir: Path, *, cache_dir: Path, class_names: Sequence[str]
) -> pd.Series | None:
    """Predicted classes of a baseline on `rows` of the images table, indexed by path; None where there is no baseline.

    `baseline` is a run folder with `predictions.parquet`, "published" (the model of 2019, on features cached in
    `cache_dir`; only where its classes are those of the run at hand, `class_names`), or "".

    Raises:
        FileNotFoundError: the run has no predictions.
        ValueError: the run has other classes, or did not predict these pictures.
    """
    if not baseline:
        return None
    if baseline == "published":
        from nsfwlib.model import CLASS_NAMES, bottleneck_features, head_model, published_model

        if list(class_names) != list(CLASS_NAMES):
            return None
        classifier = published_model()
        found = bottleneck_features(classifier, rows, data_dir, cache_dir=cache_dir)
        probs = head_model(classifier).predict(np.asarray(found, np.float32), verbose=0)
        return pd.Series(np.array(class_names)[probs.argmax(axis=1)], index=pd.Index(rows["path"]))
    table = runs.read_table(Path(baseline), "predictions.parquet", made_by="02_fine_tune").set_index("path")
    theirs = [name for name in table.columns if name != "split"]
    missing = ~rows["path"].isin(table.index)
    if theirs != list(class_names) or missing.any():
        raise ValueError(
            f"{baseline} must have predicted the same pictures with the classes {', '.join(class_names)}. Received "
            f"classes {', '.join(theirs)}; {missing.sum():,} pictures are missing. Use a run on the same split, or "
            "baseline_run=''."
        )
    return table.loc[rows["path"], theirs].idxmax(axis=1)


def cached_robustness(
    run_dir: Path, paths: Sequence[str], data_dir: Path, *, labels: pd.Series, groups: pd.Series
) -> pd.DataFrame:
    """`measure_robustness` of the run's model on these pictures, kept in the run until the content of any changes."""
    if not len(paths):
        return pd.DataFrame()
    kept, weights = Path(run_dir) / "robustness.json", Path(run_dir) / "model.keras"
    files = [file_path(data_dir, path) for path in paths]
    contents = [file_hash(file) for file in (weights, *files)]
    settings = {"contents": contents, "labels": list(labels), "groups": groups.tolist(), "changes": CHANGES}
    if not runs.is_current(kept, settings):
        from nsfwlib.model import class_names as names_of, image_size, load_model

        classifier = load_model(weights)
        predict = partial(classifier.predict, batch_size=16, verbose=0)
        known = {"class_names": names_of(classifier), "size": image_size(classifier), "groups": settings["groups"]}
        table = measure_robustness([load_image(file) for file in files], settings["labels"], predict, **known)
        table["level"] = table["level"].astype(str)
        runs.write_json({"settings": settings, "table": table.to_dict("list")}, kept)
    return pd.DataFrame(runs.read_json(kept)["table"])


def explain_errors(
    run_dir: Path, paths: Sequence[str], data_dir: Path, *, answers: pd.Series, blur: float = 3.0
) -> tuple[list[np.ndarray], np.ndarray]:
    """Blurred thumbnails of these pictures, and Grad-CAM heat (N, h, w) for the class that the model answered."""
    from nsfwlib.model import class_names as names_of, image_size, load_model

    classifier = load_model(Path(run_dir) / "model.keras")
    names, size = names_of(classifier), image_size(classifier)
    files = [file_path(data_dir, path) for path in paths]
    pixels = np.stack([load_image(file, size=size) for file in files])
    heat = heat_maps(classifier, pixels, [names.index(answer) for answer in answers])
    return [blurred_thumbnail(file, blur=blur) for file in files], heat
