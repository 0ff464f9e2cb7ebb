"""What is a row to those who judge it? A code for its label, a number for its group, checked probabilities."""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pandas as pd

Classes = Sequence[Hashable] | None  # their names in order
EPS = 1e-6  # the least probability any member gives a class
UNLABELLED = -1


def encode(labels: Any, classes: Classes) -> tuple[np.ndarray, list]:
    """Labels as codes into `classes`; unlabelled rows are UNLABELLED."""
    array = np.asarray(labels, object)
    if array.ndim != 1:
        raise ValueError(f"Expected labels (N,), one a row. Received shape {array.shape}: pass one column of names.")
    values = pd.Series(array, dtype=object)
    empty = values.isna() | (values == "")
    names = list(values[~empty].unique()) if classes is None else list(classes)
    if len(kinds := {isinstance(name, str): name for name in names}) > 1:
        raise ValueError(f"Expected labels of one type. Received: {[*kinds.values()]}. Convert all of them to text.")
    names = sorted(names) if classes is None else names
    if not names or len(set(names)) != len(names):
        raise ValueError(f"Expected at least one class, each named once. Received: {names}. Pass classes=…")
    codes = pd.Index(names).get_indexer(pd.Index(values))
    codes[empty.to_numpy()] = UNLABELLED
    if len(unknown := values[(codes == UNLABELLED) & ~empty.to_numpy()]):
        received = f"Received: {unknown.iloc[0]!r} (row {unknown.index[0]}, {len(unknown)} such rows)."
        way_out = "Pass classes=… with every class, or leave the label empty."
        raise ValueError(f"Expected labels in {names}. {received} {way_out}")
    return codes, names


def group_codes(groups: Any, n: int) -> np.ndarray:
    """(N,) group numbers from 0; a row without a group, or every row where groups is None, is a group of its own."""
    if groups is None:
        return np.arange(n)
    if len(groups) != n:
        raise ValueError(f"Expected one group a row: {n}. Received: {len(groups)} groups.")
    codes, names = pd.factorize(pd.Series(groups))
    alone = codes < 0
    codes[alone] = len(names) + np.arange(alone.sum())
    return codes


def check_probs(pred_probs: Any, n: int, k: int, *, gaps: bool = False) -> np.ndarray:
    """The probabilities as float64 (n, k); another shape is an error, NaN too without `gaps`."""
    probs = np.asarray(pred_probs, dtype=np.float64)
    if probs.shape != (n, k):
        raise ValueError(f"Expected pred_probs of shape {(n, k)}, one column a class. Received: {probs.shape}.")
    if not gaps and not np.isfinite(probs).all():
        bad = int((~np.isfinite(probs)).any(axis=1).sum())
        raise ValueError(f"Expected finite pred_probs. Received: {bad:,} rows with NaN or infinity; score them again.")
    return probs


def normalised(probs: np.ndarray, least: float = EPS) -> np.ndarray:
    """Rows that sum to 1, nothing in them below about `least`."""
    probs = np.clip(probs, least, None)
    return probs / probs.sum(axis=1, keepdims=True)
