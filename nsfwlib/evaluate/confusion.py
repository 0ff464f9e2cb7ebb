"""Who is taken for whom? Confusion matrices, their intervals, and those of earlier runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nsfwlib import runs
from nsfwlib.evaluate.intervals import Groups, Names, jeffreys, share_interval


def confusion_matrix(labels: Names, predicted: Names, *, class_names: Names) -> np.ndarray:
    """Confusion matrix: int (K, K), rows the labels, columns the predictions, in the order of class_names."""
    k, rows = len(class_names), class_codes(labels, class_names)
    cells = [k, 1] @ np.stack([rows, class_codes(predicted, class_names, "predictions")])
    return np.bincount(cells, minlength=k * k).reshape(k, k)


def confusion_intervals(labels: Names, predicted: Names, *, class_names: Names, groups: Groups = None) -> np.ndarray:
    """Jeffreys interval (K, K, 2) of each row share of the confusion matrix by itself, on effective counts."""
    labels, matrix = np.asarray(labels), confusion_matrix(labels, predicted, class_names=class_names)
    among = [labels == name for name in class_names]
    worth = share_interval(labels == np.asarray(predicted), groups, among=among).worth[:, None]  # type: ignore[index]
    return np.stack(jeffreys(matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1) * worth, worth), axis=-1)


def confused_pairs(matrix: np.ndarray, *, class_names: Names, intervals: np.ndarray) -> pd.DataFrame:
    """The five worst confusions: `label`, `predicted`, `count`, `share` of the label, `low`, `high`, `sentence`."""
    support, rows = matrix.sum(axis=1), []
    for i, j in np.argwhere(matrix * ~np.eye(len(matrix), dtype=bool)):
        share, (a, b), (low, high) = matrix[i, j] / support[i], (class_names[i], class_names[j]), intervals[i, j]
        counts = f"{matrix[i, j]:,.0f} of {support[i]:,.0f} {a} images"
        sentence = f"{counts} ({share:.1%}, interval {low:.1%} to {high:.1%}) are taken for {b}."
        rows.append((a, b, matrix[i, j], share, low, high, sentence))
    table = pd.DataFrame(rows, columns=["label", "predicted", "count", "share", "low", "high", "sentence"])
    return table.sort_values("share", ascending=False, kind="stable", ignore_index=True).head(5)


def published_matrices(path: Path | str, *, class_names: Names) -> list[dict[str, Any]]:
    """Published confusion matrices of the same classes, best last: `name` and `shares` (K, K); often []."""
    text = runs.read_json(Path(path)) if path and Path(path).exists() else {"matrices": []}
    records = [{"class_names": text.get("class_names")} | record for record in text.get("matrices", [text])]
    same = sorted((r for r in records if r["class_names"] == list(class_names)), key=lambda r: r["accuracy"])
    return [{"name": r["name"], "shares": np.array(r.get("counts") or r["shares"])} for r in same]


def class_codes(labels: Names, class_names: Names, what: str = "labels") -> np.ndarray:
    """Positions of labels in class_names; a label of another class is an error."""
    values = pd.Series(np.asarray(labels), dtype=object)
    codes = pd.Index(list(class_names)).get_indexer(values)
    if (codes < 0).any():
        strange = sorted({str(v) for v in values[codes < 0]})[:5]
        received = f"Received also: {strange} ({(codes < 0).sum():,} rows)."
        raise ValueError(f"Expected {what} among {[*class_names]}. {received} Evaluate with the classes of the model.")
    return codes
