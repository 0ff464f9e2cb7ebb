"""Which detectors can be compared? Any table with one row a picture and one column a label, in one label space."""

import os
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from nsfwlib.evaluate.intervals import Names
from nsfwlib.files import read_text_table

NO_LABELS = ("frames", "width", "height", "bytes", "group", "seconds")  # numbers in tables of our own


def read_detector(
    source: pd.DataFrame | Path | str,
    images: pd.DataFrame,
    *,
    class_names: Names,
    unsafe_classes: Names,
    mapping: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """What a detector says of these `images`, by their `path` or `sha256`, in our labels.

    Args:
        source: a table, or a .parquet, .csv or .jsonl file, with `path` or `sha256` and one column a label, scores in
            [0, 1]; `<label>_max`, the highest over frames, counts for the unsafe side where it is there.
        mapping: the detector's label → one of our classes, "safe", "unsafe", or "" for a label to ignore. By default
            its labels are our classes. Where any label says no more than safe or unsafe, so does the detector.

    By path, in the order of `images`, come a probability a class, where classes map, and `unsafe_score`, in [0, 1]: the
    sum of its unsafe labels where scores sum to 1, else the highest. NaN where it has no score.

    A ValueError where no class is unsafe, labels are unknown or unmapped, scores outside [0, 1], there is no `path` or
    `sha256`, or less than half of the pictures are in the table.
    """
    if not {*unsafe_classes} & {*class_names}:
        raise ValueError(f"Expected unsafe_classes to be some of {[*class_names]}. Received: {[*unsafe_classes]}.")
    is_table = isinstance(source, pd.DataFrame)
    table, named = (source, "the table") if is_table else (_read(Path(source)), os.fspath(source))
    targets = {name: name for name in class_names} if mapping is None else dict(mapping)
    scores = _label_scores(table, targets, [*class_names, "safe", "unsafe", ""], named)
    scores = _of_pictures(table, scores, images, named)
    used = [name for name, target in targets.items() if target]
    values = scores[used]
    outside = ((values < 0) | (values > 1)).any(axis=1)
    if outside.any():
        raise ValueError(
            f"Expected scores in [0, 1]. Received in {named}: {outside.sum():,} rows outside, first: "
            f"{outside.idxmax()} {values.loc[outside.idxmax()].to_dict()}. Divide percentages; logits want a sigmoid."
        )
    flagged = [name for name in used if targets[name] == "unsafe" or targets[name] in unsafe_classes]
    one = scores[list(targets)].sum(axis=1, skipna=False)
    highest = scores.reindex(columns=[f"{name}_max" for name in flagged]).set_axis(flagged, axis=1)
    worst = highest.fillna(values[flagged])
    added, most = worst.sum(axis=1, skipna=False).clip(upper=1), worst.max(axis=1, skipna=False)
    found = pd.DataFrame(index=values.index)
    if all(targets[name] in class_names for name in used):
        for name in class_names:
            found[name] = values[[label for label in used if targets[label] == name]].sum(axis=1, skipna=False)
    return found.assign(unsafe_score=added.where(one.sub(1).abs().lt(0.01), most).where(one.notna())).astype(float)


def _read(path: Path) -> pd.DataFrame:
    if path.suffix not in (".parquet", ".csv", ".jsonl"):
        raise ValueError(f"Expected a table .parquet, .csv or .jsonl. Received: {path}. Score it with nsfwlib.score.")
    if path.suffix == ".jsonl":
        return pd.read_json(path, lines=True, dtype={"path": str, "sha256": str}, encoding="utf-8")
    return pd.read_parquet(path) if path.suffix == ".parquet" else read_text_table(path)


def _label_scores(table: pd.DataFrame, targets: Mapping[str, str], known: Names, named: str) -> pd.DataFrame:
    """The columns of labels, and of their maxima over frames, as numbers; labels are named that lack a target."""
    if strange := {name: target for name, target in targets.items() if target not in known}:
        raise ValueError(f"Labels are mapped to one of {[*known[:-1]]}, or '' to ignore one. Received: {strange}.")
    numbers = table.drop(columns=["path", "sha256", *(set(NO_LABELS) - set(targets))], errors="ignore")
    numbers = numbers.apply(pd.to_numeric, errors="coerce").astype(float)
    shares = numbers.loc[:, numbers.notna().any() & ((numbers >= 0) & (numbers <= 1) | numbers.isna()).all()]
    other = [name for name in shares if name.removesuffix("_max") not in {*numbers} - {name}]  # else it is a label's
    missing, unmapped = sorted(set(targets) - set(table)), sorted(set(other) - set(targets))
    if missing or unmapped or not any(targets.values()):
        raise ValueError(
            f"The mapping of {named} must name each of its labels: to a class, 'safe', 'unsafe', or '' to ignore it. "
            f"Not in the table: {missing}. Not in the mapping: {unmapped}."
        )
    return numbers.filter(items=[*targets, *(f"{name}_max" for name in targets)])


def _of_pictures(table: pd.DataFrame, scores: pd.DataFrame, images: pd.DataFrame, named: str) -> pd.DataFrame:
    """The scores in the order of the pictures, by path; NaN where there are none."""
    if not (keys := [key for key in ("path", "sha256") if key in table]):
        raise ValueError(f"Expected a column path or sha256 in {named}. Received: {[*map(str, table.columns)]}.")
    there, key = max(((images[key].isin(table[key]).sum(), key) for key in keys), key=lambda pair: pair[0])
    if there < len(images) / 2:
        raise ValueError(
            f"{named} is about other pictures: it has {there:,} of {len(images):,} by {' or '.join(keys)}. Expected "
            f"such as {images[key].iloc[0]!r}. Received: {str(table[key].iloc[0])!r}."
        )
    scores = scores.set_axis(table[key]).loc[~table[key].duplicated().to_numpy()]
    return scores.reindex(images[key]).set_axis(pd.Index(images["path"]))


def is_wrong(
    detector: pd.DataFrame, labels: pd.Series, *, unsafe_classes: Names, threshold: float = 0.5, sides: bool = False
) -> pd.Series:
    """Whether a detector says another class than the `labels`, by path, or another side where that is all it tells.

    bool (N,) of these rows, False without a score. Flagged is from `threshold` on; `sides` asks for those in any case.
    """
    rows = detector.loc[labels.index]
    if len(rows.columns) > 1 and not sides:  # it tells classes apart
        wrong = rows.drop(columns="unsafe_score").fillna(-1).idxmax(axis=1).ne(labels)
    else:
        wrong = rows["unsafe_score"].ge(threshold).ne(labels.isin(list(unsafe_classes)))
    return wrong & rows["unsafe_score"].notna()
