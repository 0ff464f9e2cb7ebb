"""Where does the model fail? On some kind of picture, on changed ones, where a baseline does not, where it looked."""

import io
import itertools
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageFilter, ImageOps
from scipy.stats import chi2, false_discovery_control

from nsfwlib import model, runs
from nsfwlib.data import blurred_thumbnail, load_image
from nsfwlib.evaluate.confusion import class_codes
from nsfwlib.evaluate.intervals import Groups, Names, Weights, share_interval
from nsfwlib.files import file_hash, file_path

CHANGES: dict[str, tuple[int | str, ...]] = {
    "JPEG quality": (90, 70, 50, 30, 10), "blur (px)": (1, 2, 4), "resize method": ("nearest", "bicubic", "lanczos"),
    "crop (% a side)": (2, 5, 10), "greyscale": ("yes",), "mirror": ("yes",),
}  # fmt: skip
UNKNOWN = ("", "na", "n/a", "nan", "none", "null")  # how tables say that a number is not known
MOST_VALUES = 50  # of one attribute; rarer ones are sliced together


def slice_attributes(images: pd.DataFrame, metadata: pd.DataFrame | None = None) -> pd.DataFrame:
    """Attributes to slice by, one row an image in the order of `images`: text or numbers, NaN where unknown.

    Args:
        images: rows of the images table; columns that it lacks give no attribute.
        metadata: a table of the user's own with a `path` column; all its other columns are taken, those of text that
            writes numbers as numbers (but codes such as 007 as text). A UserWarning where it does not know all images,
            or repeats a path (the first row counts).
    """
    images = images.reset_index(drop=True)
    table = images.loc[:, images.columns.isin(["source", "format", "brightness", "sharpness", "transparent"])].copy()
    if {"width", "height"} <= set(images):
        names = ["≤ 150 px", "151–300", "301–600", "601–1200", "> 1200 px"]
        side = pd.cut(images[["width", "height"]].min(axis=1), [0, 150, 300, 600, 1200, np.inf], labels=names)
        table["shorter side"] = side.astype(object)
    if "grey" in images:
        table["colour"] = np.where(images["grey"].eq(True), "greyscale", "colour")
    if "frames" in images:
        table["animation"] = np.where(images["frames"] > 1, "animated", "still")
    if "group" in images:
        table["near-duplicates"] = np.where(images["group"].duplicated(keep=False), "has some", "alone")
    if metadata is None:
        return table
    if "path" not in metadata:
        warnings.warn(f"Metadata is left out: it has no column 'path' but {list(metadata)}.", stacklevel=2)
        return table
    path, repeats = images["path"], metadata["path"].duplicated().sum()
    known = path.isin(metadata["path"])
    if not known.all() or repeats:
        said = (
            f"Metadata knows {known.sum():,} of {len(path):,} images, first unknown: {path[~known].head(1).tolist()}, "
            f"its own first path: {metadata['path'].head(1).tolist()}; {repeats:,} of its rows repeat a path. "
            "Paths are relative to data_dir, with '/'."
        )
        warnings.warn(said, stacklevel=2)
    own = metadata.drop_duplicates("path").set_index("path").apply(_typed).reindex(path).reset_index(drop=True)
    return pd.concat([table, own.rename(columns={name: f"{name} (metadata)" for name in table})], axis=1)


def _typed(column: pd.Series) -> pd.Series:
    """Text that writes numbers → numbers, NaN where it says that there is none; else the column, "" as NaN."""
    if not pd.api.types.is_string_dtype(column):
        return column
    numbers, text = pd.to_numeric(column, errors="coerce"), column.astype(str).str.strip()
    codes = text.str.match(r"[-+]?0\d").any() or not text[numbers.isna()].str.lower().isin(UNKNOWN).all()
    return column.mask(text.eq("")) if codes else numbers


def accuracy_by_slice(
    attributes: pd.DataFrame,
    right: Sequence[bool],
    *,
    classes: Names | None = None,
    weights: Weights = None,
    groups: Groups = None,
    minimum: int = 30,
) -> pd.DataFrame:
    """Share of `right` answers (N,) in each slice against all other rows, worst slice first.

    Slices differ in their mix of classes: they are compared within each class, by the test of Cochran, Mantel and
    Haenszel on effective counts (Mantel and Haenszel, Statistical Aspects of the Analysis of Data from Retrospective
    Studies of Disease, 1959), and corrected for looking at many by Benjamini and Hochberg
    (`scipy.stats.false_discovery_control`). For false alarms, pass safe rows only and `right = not flagged`.

    Args, `groups` and `weights` as in `share_interval`:
        attributes: one row an image; columns of many numbers are cut at their quartiles.
        classes: (N,) true class of each row where audited, else its label, which differs in noise between slices, too.
        minimum: smaller slices are listed last, without a test.

    Columns: `attribute`, `value`, `images`, `accuracy`, `low` and `high` (of 95 % for all tested slices together, so
    that the worst may be picked: Bonferroni), `rest` (accuracy of all others, had they this slice's classes), `p`, `q`
    (p corrected), `note`.
    """
    right = np.asarray(right, dtype=bool)
    if len(attributes) != len(right):
        raise ValueError(f"Expected one answer a row: {len(attributes)}. Received: {len(right)}.")
    values = pd.DataFrame({name: _slice_values(attributes[name]) for name in attributes})
    slices = {(name, value): values[name].eq(value) for name in values for value in values[name].unique()}
    slices = {key: inside.to_numpy() for key, inside in slices.items() if not inside.all()}
    weight = np.ones(len(right)) if weights is None else np.asarray(weights, dtype=float)
    tested = np.array([minimum <= inside.sum() <= len(right) - minimum for inside in slices.values()], dtype=bool)
    among = [part for inside in slices.values() for part in (inside, ~inside)]
    found = share_interval(right, groups, among=among, weights=weight, level=1 - 0.05 / max(tested.sum(), 1))
    kinds = pd.factorize(np.zeros(len(right)) if classes is None else np.asarray(classes))[0]
    k = kinds.max(initial=0) + 1
    cells = np.array(
        [[np.bincount(kinds[part], some[part], minlength=k) for some in (weight * right, weight)] for part in among]
    ).reshape(-1, 2, 2, k)  # slice, inside and outside, right and all, class
    mass = cells[:, :, 1].sum(axis=-1, keepdims=True)[..., None]
    table = pd.DataFrame(list(slices), columns=["attribute", "value"]).assign(
        images=found.rows[::2], accuracy=found.value[::2], low=found.low[::2], high=found.high[::2],
        rest=[_standardised(inside, outside) for inside, outside in cells], p=np.nan, q=np.nan,
        note=np.where(tested, "", f"fewer than {minimum} images here or elsewhere: no conclusion"),
    )  # fmt: skip
    if tested.any():
        cells *= found.worth.reshape(-1, 2, 1, 1) / np.where(mass > 0, mass, 1)
        table.loc[tested, "p"] = [_cochran_mantel_haenszel(*pair) for pair in cells[tested]]
        table.loc[tested, "q"] = false_discovery_control(table.loc[tested, "p"])
    return table.sort_values(["note", "accuracy", "q"], kind="stable", ignore_index=True)  # those without one first


def _standardised(inside: np.ndarray, outside: np.ndarray) -> float:
    """Accuracy outside at the class mix inside, of the classes that are outside, too; each (2, K) right and all."""
    both = (inside[1] > 0) & (outside[1] > 0)
    return float(np.average(outside[0, both] / outside[1, both], weights=inside[1, both])) if both.any() else np.nan


def _cochran_mantel_haenszel(inside: np.ndarray, outside: np.ndarray) -> float:
    """P value, with continuity correction, that within no class the share of right answers differs; as above."""
    right, n = inside + outside
    several = n > 1
    (a, n_in), (right, n) = inside[:, several], np.stack([right, n])[:, several]
    spread = (n_in * (n - n_in) * right * (n - right) / (n**2 * (n - 1))).sum()
    off = max(abs((a - n_in * right / n).sum()) - 0.5, 0)
    return float(chi2.sf(off**2 / spread, 1)) if spread > 0 else 1.0


def _slice_values(column: pd.Series) -> pd.Series:
    """Text value of each row; numbers with many values become quartile ranges, rare texts one value of their own."""
    if pd.api.types.is_numeric_dtype(column) and column.nunique() > 8:
        quarter, edges = pd.qcut(column, 4, duplicates="drop", labels=False, retbins=True)
        column = quarter.map(dict(enumerate(f"{low:.3g} to {high:.3g}" for low, high in itertools.pairwise(edges))))
    values = column.astype(object).where(column.notna(), "unknown").astype(str)
    return values.where(values.isin(values.value_counts().index[:MOST_VALUES]), "any other")


def changed(picture: np.ndarray, change: str, level: int | str, *, size: int) -> np.ndarray:
    """The picture after one change, at the model's input size: uint8 (size, size, 3).

    `picture` is uint8 (H, W, 3), `change` a key of CHANGES with one of its levels, or "none". Blur is in pixels of the
    input; everything else happens to the picture as it is.
    """
    image = Image.fromarray(picture)
    method = str(level).upper() if change == "resize method" else "BILINEAR"
    if change == "JPEG quality":
        image.save(buffer := io.BytesIO(), "JPEG", quality=int(level))
        image = Image.open(buffer)
    elif change == "crop (% a side)":
        x, y = image.width * int(level) / 100, image.height * int(level) / 100
        image = image.crop((round(x), round(y), round(image.width - x), round(image.height - y)))
    elif change == "greyscale":
        image = image.convert("L").convert("RGB")
    elif change == "mirror":
        image = ImageOps.mirror(image)
    image = image.resize((size, size), Image.Resampling[method])
    return np.asarray(image.filter(ImageFilter.GaussianBlur(int(level))) if change == "blur (px)" else image)


def measure_robustness(
    pictures: Sequence[np.ndarray],
    labels: Names,
    predict: Callable[[np.ndarray], np.ndarray],
    *,
    class_names: Names,
    size: int,
    groups: Groups = None,
) -> pd.DataFrame:
    """Accuracy under each change; every row costs one prediction of all the pictures, so pass a sample.

    `pictures` are N of uint8 (H, W, 3), of any size, `labels` (N,) their classes among the K `class_names`; `predict`
    takes uint8 (N, size, size, 3) and gives probabilities (N, K). One row comes a change and level, the untouched
    pictures ("none") first: `change`, `level`, `value` (accuracy) with its 95 % interval `low`, `high`, `same` (share
    of pictures whose predicted class stays), `images`.
    """
    codes, plain, rows = class_codes(labels, class_names), None, []
    for change, step in [("none", ""), *((name, step) for name, steps in CHANGES.items() for step in steps)]:
        answers = predict(np.stack([changed(picture, change, step, size=size) for picture in pictures])).argmax(axis=1)
        plain = answers if plain is None else plain
        found = *share_interval(answers == codes, groups)[:3], (answers == plain).mean(), len(codes)
        rows.append((change, str(step), *found))
    return pd.DataFrame(rows, columns=["change", "level", "value", "low", "high", "same", "images"])


def heat_maps(classifier: Any, pixels: np.ndarray, classes: Sequence[int], *, batch_size: int = 16) -> np.ndarray:
    """How much each region speaks for a class: float32 (N, h, w), 0 for not at all, 1 the most of its picture.

    Gradient of the class's log-probability by the pooled feature maps weighs their channels (Selvaraju et al.,
    Grad-CAM, 2017); the maps of all blocks that feed the head are summed on the grid of the finest. It shows where
    evidence lies, not why it counts. `pixels` are RGB 0–255 (N, S, S, 3), `classes` (N,) the positions of the classes.
    """
    from nsfwlib._tensorflow import keras, tf

    outputs = [model.block_output(classifier, block) for block in model.head_blocks(classifier)]
    body, head = keras.Model(classifier.input, outputs), model.head_model(classifier)
    grid = max(tuple(output.shape[1:3]) for output in outputs)
    heat = [np.zeros((0, *grid), np.float32)]
    for start in range(0, len(pixels), batch_size):
        part = slice(start, start + batch_size)
        maps = tf.nest.flatten(body(tf.constant(pixels[part], tf.float32), training=False))
        pooled = tf.concat([tf.reduce_mean(each, axis=(1, 2)) for each in maps], axis=1)
        with tf.GradientTape() as tape:
            tape.watch(pooled)
            chosen = tf.gather(head(pooled, training=False), tf.constant(classes[part], tf.int32), axis=1, batch_dims=1)
            evidence = tf.math.log(chosen + 1e-7)
        weights = tf.split(tape.gradient(evidence, pooled), [each.shape[-1] for each in maps], axis=1)
        shares = [tf.einsum("bhwc,bc->bhw", each, weight) for each, weight in zip(maps, weights, strict=True)]
        heat.append(tf.nn.relu(sum(tf.image.resize(share[..., None], grid) for share in shares))[..., 0].numpy())
    heat = np.concatenate(heat)
    return heat / np.maximum(heat.max(axis=(1, 2), keepdims=True, initial=0), 1e-12)


def baseline_answers(
    baseline: str, rows: pd.DataFrame, data_dir: Path, *, cache_dir: Path, class_names: Names
) -> pd.Series | None:
    """Predicted classes of a baseline on `rows` of the images table, indexed by path; None where there is no baseline.

    `baseline` is a run folder (a ValueError where it has other classes or pictures), "published" (the model of 2019, on
    features cached in `cache_dir`; only where its classes are those of the run at hand, `class_names`), or "".
    """
    if not baseline or (baseline == "published" and list(class_names) != list(model.CLASS_NAMES)):
        return None
    if baseline == "published":
        probs = model.head_answers(model.published_model(), rows, data_dir, cache_dir=cache_dir)
        return pd.Series(np.array(class_names)[probs.argmax(axis=1)], index=pd.Index(rows["path"]))
    table = runs.read_table(Path(baseline), "predictions.parquet", made_by="02_fine_tune").set_index("path")
    theirs = [name for name in table.columns if name != "split"]
    missing = ~rows["path"].isin(table.index)
    if theirs != list(class_names) or missing.any():
        expected = f"{baseline} must have predicted the same pictures with the classes {', '.join(class_names)}."
        received = f"Received classes {', '.join(theirs)}; {missing.sum():,} pictures are missing."
        raise ValueError(f"{expected} {received} Use a run on the same split, or baseline_run=''.")
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
        classifier = model.load_model(weights)
        predict = partial(classifier.predict, batch_size=16, verbose=0)
        known = {"class_names": model.class_names(classifier), "size": model.image_size(classifier), "groups": groups}
        table = measure_robustness([load_image(file) for file in files], settings["labels"], predict, **known)
        runs.write_json({"settings": settings, "table": table.to_dict("list")}, kept)
    return pd.DataFrame(runs.read_json(kept)["table"])


def explain_errors(
    run_dir: Path, paths: Sequence[str], data_dir: Path, *, answers: pd.Series, blur: float = 3.0
) -> tuple[list[np.ndarray], np.ndarray]:
    """Blurred thumbnails of these pictures, and Grad-CAM heat (N, h, w) for the class that the model answered."""
    classifier = model.load_model(Path(run_dir) / "model.keras")
    names, files = model.class_names(classifier), [file_path(data_dir, path) for path in paths]
    pixels = np.stack([load_image(file, size=model.image_size(classifier)) for file in files])
    heat = heat_maps(classifier, pixels, [names.index(answer) for answer in answers])
    return [blurred_thumbnail(file, blur=blur) for file in files], heat
