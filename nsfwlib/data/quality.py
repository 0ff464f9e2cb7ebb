"""What in the data would fool a classifier, and what should be done about it? Outliers, shortcuts, next steps."""

import numpy as np
import pandas as pd
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.tree import DecisionTreeClassifier

from nsfwlib.data.screening import LAW

TAILS = {  # kind → measure of the images table, whose outermost percent it is, and on which side
    "dark": ("brightness", 0.01, pd.Series.le),
    "light": ("brightness", 0.99, pd.Series.ge),
    "blurred": ("sharpness", 0.01, pd.Series.le),  # variance of the Laplacian (Pech-Pacheco et al. 2000)
    "low information": ("entropy", 0.01, pd.Series.le),
}
SHORTCUTS = {
    "format": ["format"], "size in pixels": ["width", "height"], "bytes": ["bytes"],
    "transparency": ["transparent"], "greyscale": ["grey"], "brightness": ["brightness"],
}  # fmt: skip


def outliers(images: pd.DataFrame) -> pd.DataFrame:
    """Usable pictures in the outermost percent of a measure: columns path, given_label, kind, value.

    A percentile always finds somebody; whether they are faulty is for a person to see.
    """
    usable = images[images["problem"].eq("")]
    found = []
    for kind, (measure, share, beyond) in TAILS.items():
        values = usable[measure].astype(float)
        rows = usable.loc[beyond(values, values.quantile(share)), ["path", "given_label"]]
        found.append(rows.assign(kind=kind, value=values))
    return pd.concat(found).sort_values(["kind", "path"], ignore_index=True)


def shortcuts(images: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """How well does an attribute that is no content predict the class? Balanced accuracy of a small tree, out of fold.

    One row an attribute, worst first: `attribute`, `accuracy`, `chance` (1 / classes), `gain` = accuracy - chance.
    A gain of more than a few points is something that a network will learn instead of the content. No row where all
    pictures are near-duplicates of one another: nothing can be held out.
    """
    usable = images[images["problem"].eq("") & images["given_label"].ne("")]
    labels, groups = usable["given_label"].to_numpy(str), usable["group"].to_numpy()
    chance, apart = 1 / max(len(np.unique(labels)), 1), len(np.unique(groups))
    splitter = GroupKFold(max(2, min(5, apart)), shuffle=True, random_state=seed)
    rows = []
    for attribute, columns in SHORTCUTS.items() if apart > 1 else ():
        values = usable[columns].apply(lambda column: pd.factorize(column)[0] if column.dtype.kind == "O" else column)
        tree = DecisionTreeClassifier(max_depth=4, min_samples_leaf=10, class_weight="balanced", random_state=seed)
        told = cross_val_predict(tree, values.to_numpy(float), labels, groups=groups, cv=splitter)
        accuracy = balanced_accuracy_score(labels, told)
        rows.append((attribute, accuracy, chance, accuracy - chance))
    table = pd.DataFrame(rows, columns=["attribute", "accuracy", "chance", "gain"])
    return table.sort_values("gain", ascending=False, ignore_index=True)


def next_steps(
    images: pd.DataFrame, *, conflicts: pd.DataFrame, leaks: pd.DataFrame, hubs: pd.DataFrame, shortcuts: pd.DataFrame
) -> list[str]:
    """What to do next, a sentence each, most pressing first; computed from the tables of notebook 01."""
    usable, problems = images[images["problem"].eq("")], images["problem"].value_counts()
    counts = usable.loc[usable["given_label"].ne(""), "given_label"].value_counts()
    steps = []
    if "screened" in problems:
        steps.append(f"{problems['screened']:,} files match the list of known-bad hashes. {LAW}")
    if len(leaks):
        steps.append(f"{len(leaks):,} pairs of near-duplicates lie in different splits: see `data.leaks`.")
    if len(conflicts):
        sets = conflicts["group"].nunique()
        steps.append(f"{sets:,} groups of near-duplicates carry more than one label: review them first, in 03.")
    if len(broken := problems[(problems.index != "") & ~problems.index.str.startswith(("skipped", "screened"))]):
        lost = broken.reindex(["truncated", "damaged", "empty file", "not an image"]).sum()
        most = f"{broken.index[0]} ({broken.iloc[0]:,})"
        said = f"{broken.sum():,} files ({broken.sum() / len(images):.1%}) cannot be used, most often: {most}. "
        steps.append(said + (f"Fetch the {lost:,.0f} that are damaged again if they matter." if lost else ""))
    if len(hubs):
        steps.append(f"{len(hubs):,} pictures turn up again and again (placeholders, blank pages): drop them perhaps.")
    if len(usable) > 1 and usable["group"].nunique() == 1 and usable["group"].iloc[0] >= 0:
        steps.append(f"All {len(usable):,} usable pictures are near-duplicates of one another: add others.")
    for row in shortcuts[shortcuts["gain"] > 0.1].itertuples():
        cheat = f"{row.attribute.capitalize()} alone predicts the class at {row.accuracy:.0%} (chance {row.chance:.0%})"
        steps.append(f"{cheat}: a classifier can cheat on it. Balance it, or slice by it in 04.")
    if len(counts) and counts.max() > 5 * counts.min():
        sizes = f"{counts.index[-1]} has {counts.min():,} pictures, {counts.index[0]} {counts.max():,}"
        steps.append(f"{sizes}: set class_weight='balanced' in 02.")
    return [*steps, "Train: 02_fine_tune."]


def feature_map(features: np.ndarray, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two-dimensional map of bottleneck features (N, D): at most 3000 row numbers (n,) at random, their places (n, 2).

    Principal components first, then t-SNE (van der Maaten and Hinton 2008): neighbours mean something, distances and
    areas do not. Rows that are not finite are left out; pictures that are all alike lie at one place.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    rows = np.sort(np.random.default_rng(seed).permutation(np.flatnonzero(~np.isnan(features[:, 0])))[:3000])
    rows = rows[np.isfinite(features[rows]).all(axis=1)]
    values = np.asarray(features[rows], np.float32)
    if len(rows) < 3 or not np.ptp(values, axis=0).any():
        return rows, np.zeros((len(rows), 2))
    small = PCA(min(50, *values.shape), random_state=seed).fit_transform(values)
    perplexity = min(30, max(1, (len(rows) - 1) / 3))
    return rows, TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(small)
