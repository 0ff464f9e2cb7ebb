"""On which kind of picture does the model fail? Accuracy by slice, corrected for looking at many."""

import itertools
import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control, fisher_exact

from nsfwlib.evaluate.intervals import share_interval

UNKNOWN = ("", "na", "n/a", "nan", "none", "null")  # how tables say that a number is not known
MOST_VALUES = 50  # of one attribute; rarer ones are sliced together


def slice_attributes(images: pd.DataFrame, metadata: pd.DataFrame | None = None) -> pd.DataFrame:
    """Attributes to slice by, one row an image in the order of `images`: text or numbers, NaN where unknown.

    Args:
        images: rows of the images table; columns that it lacks give no attribute.
        metadata: a table of the user's own with a `path` column; all its other columns are taken, those of text that
            writes numbers as numbers (but codes such as 007 as text).

    Warns:
        UserWarning: images that the metadata does not know, or paths that it repeats (the first row counts).
    """
    table = pd.DataFrame(index=pd.RangeIndex(len(images)))
    column = {name: images[name].reset_index(drop=True) for name in images}
    for name in ("source", "format", "brightness", "sharpness", "transparent"):
        if name in column:
            table[name] = column[name]
    if {"width", "height"} <= column.keys():
        side = np.minimum(column["width"], column["height"])
        table["shorter side"] = pd.cut(
            side, [0, 150, 300, 600, 1200, np.inf], labels=["≤ 150 px", "151–300", "301–600", "601–1200", "> 1200 px"]
        ).astype(object)
    if "grey" in column:
        table["colour"] = np.where(column["grey"].eq(True), "greyscale", "colour")
    if "frames" in column:
        table["animation"] = np.where(column["frames"] > 1, "animated", "still")
    if "group" in column:
        table["near-duplicates"] = np.where(column["group"].duplicated(keep=False), "has some", "alone")
    if metadata is None:
        return table
    own = _joined(column["path"], metadata)
    return pd.concat([table, own.rename(columns={name: f"{name} (metadata)" for name in table})], axis=1)


def _joined(path: pd.Series, metadata: pd.DataFrame) -> pd.DataFrame:
    if "path" not in metadata:
        warnings.warn(f"Metadata is left out: it has no column 'path' but {list(metadata)}.", stacklevel=3)
        return pd.DataFrame(index=path.index)
    known, repeats = path.isin(metadata["path"]), int(metadata["path"].duplicated().sum())
    if not known.all() or repeats:
        warnings.warn(
            f"Metadata knows {known.sum():,} of {len(path):,} images, first unknown: {path[~known].head(1).tolist()}, "
            f"its own first path: {metadata['path'].head(1).tolist()}; {repeats:,} of its rows repeat a path. "
            "Paths are relative to data_dir, with '/'.",
            stacklevel=3,
        )
    return metadata.drop_duplicates("path").set_index("path").apply(_typed).reindex(path).reset_index(drop=True)


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
    groups: Sequence[int] | None = None,
    minimum: int = 30,
    level: float = 0.95,
) -> pd.DataFrame:
    """Share of right answers in each slice against all other rows, worst slice first.

    Fisher's exact test on effective counts, Benjamini and Hochberg's correction for looking at many slices
    (`scipy.stats.false_discovery_control`). For false alarms, pass safe rows only and `right = not flagged`.

    Args:
        attributes: one row an image; columns of many numbers are cut at their quartiles.
        right: (N,) whether the answer was right.
        groups: (N,) near-duplicate group of each row.
        minimum: smaller slices are listed last, without a test.
        level: of the intervals.

    Returns:
        One row a slice: `attribute`, `value`, `images`, `accuracy`, `low`, `high`, `rest` (accuracy of all others),
        `p`, `q` (p corrected), `note`.
    """
    right = np.asarray(right, dtype=bool)
    if len(attributes) != len(right):
        raise ValueError(f"Expected one answer a row: {len(attributes)}. Received: {len(right)}.")
    values = {name: _slice_values(attributes[name]) for name in attributes}
    slices = {(name, value): column == value for name, column in values.items() for value in pd.unique(column)}
    slices = {key: inside for key, inside in slices.items() if not inside.all()}
    among = [part for inside in slices.values() for part in (inside, ~inside)]
    found = share_interval(right, groups, among=among, level=level)
    table = pd.DataFrame(list(slices), columns=["attribute", "value"]).assign(
        images=found.rows[::2], accuracy=found.value[::2], low=found.low[::2], high=found.high[::2],
        rest=found.value[1::2], p=np.nan, q=np.nan,
    )  # fmt: skip
    tested = np.minimum(found.rows[::2], found.rows[1::2]) >= minimum
    counts = np.rint(np.stack([found.hits, found.worth - found.hits], axis=1)).astype(int).reshape(-1, 2, 2)
    table.loc[tested, "p"] = [fisher_exact(cells).pvalue for cells in counts[tested]]
    if tested.any():
        table.loc[tested, "q"] = false_discovery_control(table.loc[tested, "p"])
    table["note"] = np.where(tested, "", f"fewer than {minimum} images here or elsewhere: no conclusion")
    order = table.assign(few=~tested).sort_values(["few", "accuracy", "q"], kind="stable").index
    return table.loc[order].reset_index(drop=True)


def _slice_values(column: pd.Series) -> np.ndarray:
    """Text value of each row; numbers with many values become quartile ranges, rare texts one value of their own."""
    if pd.api.types.is_numeric_dtype(column) and column.nunique() > 8:
        quarter, edges = pd.qcut(column, 4, duplicates="drop", labels=False, retbins=True)
        names = [f"{low:.3g} to {high:.3g}" for low, high in itertools.pairwise(edges)]
        column = quarter.map(dict(enumerate(names)))
    values = column.astype(object).where(column.notna(), "unknown").astype(str)
    frequent = values.value_counts().index[:MOST_VALUES]
    return values.where(values.isin(frequent), "any other").to_numpy()
