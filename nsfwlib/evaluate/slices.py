"""On which kind of picture does the model fail? Accuracy by slice, corrected for looking at many."""

import itertools
import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import chi2, false_discovery_control

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
    images = images.reset_index(drop=True)
    table = images[
        images.columns.intersection(["source", "format", "brightness", "sharpness", "transparent"], sort=False)
    ]
    more = {}
    if {"width", "height"} <= set(images):
        names = ["≤ 150 px", "151–300", "301–600", "601–1200", "> 1200 px"]
        side = pd.cut(images[["width", "height"]].min(axis=1), [0, 150, 300, 600, 1200, np.inf], labels=names)
        more["shorter side"] = side.astype(object)
    if "grey" in images:
        more["colour"] = np.where(images["grey"].eq(True), "greyscale", "colour")
    if "frames" in images:
        more["animation"] = np.where(images["frames"] > 1, "animated", "still")
    if "group" in images:
        more["near-duplicates"] = np.where(images["group"].duplicated(keep=False), "has some", "alone")
    table = table.assign(**more)
    if metadata is None:
        return table
    own = _joined(images["path"], metadata)
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
    classes: Sequence[str] | None = None,
    weights: Sequence[float] | None = None,
    groups: Sequence[int] | None = None,
    minimum: int = 30,
) -> pd.DataFrame:
    """Share of right answers in each slice against all other rows, worst slice first.

    Slices differ in their mix of classes: they are compared within each class, by the test of Cochran, Mantel and
    Haenszel on effective counts (Mantel and Haenszel, Statistical Aspects of the Analysis of Data from Retrospective
    Studies of Disease, 1959), and corrected for looking at many by Benjamini and Hochberg
    (`scipy.stats.false_discovery_control`). For false alarms, pass safe rows only and `right = not flagged`.

    Args:
        attributes: one row an image; columns of many numbers are cut at their quartiles.
        right: (N,) whether the answer was right.
        classes: (N,) true class of each row where audited, else its label, which differs in noise between slices, too.
        weights: (N,) above 0, what each audited row stands for.
        groups: (N,) near-duplicate group of each row.
        minimum: smaller slices are listed last, without a test.

    Returns:
        One row a slice: `attribute`, `value`, `images`, `accuracy`, `low` and `high` (of 95 % for all tested slices
        together, so that the worst may be picked: Bonferroni), `rest` (accuracy of all others, had they this slice's
        classes), `p`, `q` (p corrected), `note`.
    """
    right = np.asarray(right, dtype=bool)
    if len(attributes) != len(right):
        raise ValueError(f"Expected one answer a row: {len(attributes)}. Received: {len(right)}.")
    values = {name: _slice_values(attributes[name]) for name in attributes}
    slices = {(name, value): column == value for name, column in values.items() for value in pd.unique(column)}
    slices = {key: inside for key, inside in slices.items() if not inside.all()}
    weight = np.ones(len(right)) if weights is None else np.asarray(weights, dtype=float)
    tested = np.array([minimum <= inside.sum() <= len(right) - minimum for inside in slices.values()], dtype=bool)
    among = [part for inside in slices.values() for part in (inside, ~inside)]
    found = share_interval(right, groups, among=among, weights=weight, level=1 - 0.05 / max(tested.sum(), 1))
    kinds = pd.factorize(np.zeros(len(right)) if classes is None else np.asarray(classes))[0]
    k = kinds.max(initial=0) + 1
    cells = np.array(
        [[np.bincount(kinds[part], some[part], minlength=k) for some in (weight * right, weight)] for part in among]
    ).reshape(-1, 2, 2, k)  # slice, inside and outside, right and all, class
    mass = cells[:, :, 1].sum(axis=-1).ravel()
    table = pd.DataFrame(list(slices), columns=["attribute", "value"]).assign(
        images=found.rows[::2], accuracy=found.value[::2], low=found.low[::2], high=found.high[::2],
        rest=[_standardised(inside, outside) for inside, outside in cells], p=np.nan, q=np.nan,
    )  # fmt: skip
    if tested.any():
        cells *= (found.worth / np.where(mass > 0, mass, 1)).reshape(-1, 2, 1, 1)
        table.loc[tested, "p"] = [_cochran_mantel_haenszel(*pair) for pair in cells[tested]]
        table.loc[tested, "q"] = false_discovery_control(table.loc[tested, "p"])
    table["note"] = np.where(tested, "", f"fewer than {minimum} images here or elsewhere: no conclusion")
    order = table.assign(few=~tested).sort_values(["few", "accuracy", "q"], kind="stable").index
    return table.loc[order].reset_index(drop=True)


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


def _slice_values(column: pd.Series) -> np.ndarray:
    """Text value of each row; numbers with many values become quartile ranges, rare texts one value of their own."""
    if pd.api.types.is_numeric_dtype(column) and column.nunique() > 8:
        quarter, edges = pd.qcut(column, 4, duplicates="drop", labels=False, retbins=True)
        names = [f"{low:.3g} to {high:.3g}" for low, high in itertools.pairwise(edges)]
        column = quarter.map(dict(enumerate(names)))
    values = column.astype(object).where(column.notna(), "unknown").astype(str)
    frequent = values.value_counts().index[:MOST_VALUES]
    return values.where(values.isin(frequent), "any other").to_numpy()
