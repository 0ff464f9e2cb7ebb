"""What does a linear head on frozen features say of rows that it never saw? Groups never cross its folds."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.utils.extmath import randomized_svd

EPS = 1e-6  # the least probability any member gives a class
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # candidates for the head's C, from strong to weak regularisation
DIMENSIONS = 256  # wider blocks are projected on this many principal components
UNLABELLED = -1
FOLDS = 5
SAMPLE = 50_000  # rows that the head's C is chosen on
COMPONENT_SAMPLE = 20_000  # rows that the principal components are found on
CHUNK = 16_384  # rows at a time where a whole float32 copy would not fit


def fit_head(
    features: np.ndarray,
    labels: Any,
    *,
    classes: Sequence[Hashable] | None = None,
    C: float | None = None,
    groups: Any = None,
    weights: np.ndarray | None = None,
    seed: int = 0,
) -> LinearHead:
    """Fit the head that judges labels on all valid rows: that of 02's first stage, and of 03's comparison.

    `features` is (N, D) (concatenate blocks); unlabelled rows and rows with NaN are left out; `weights` (N,) say how
    much each row counts. With `C=None` the strength is chosen by out-of-fold log-loss, folds by `groups`.
    """
    codes, classes = encode(labels, classes)
    values = np.asarray(features)
    valid = valid_rows(values) & (codes != UNLABELLED)
    if not valid.any():
        raise ValueError(f"Expected rows with a label and finite features. Received {len(values)}, none of that kind.")
    if C is None:
        x = principal_features(values, valid, seed)
        C = out_of_fold_probs(x, codes, valid, len(classes), group_codes(groups, len(codes)), seed, weights=weights)[1]
    names, counts = np.array(classes, object), None if weights is None else np.asarray(weights)[valid]
    return LinearHead(C=C, classes=classes).fit(values[valid], names[codes[valid]], counts)


class LinearHead(ClassifierMixin, BaseEstimator):
    """Multinomial logistic regression on standardised principal components, with an explicit class order.

    `classes_` is `classes` as given, in that order; a class without rows keeps its column, at zero.
    """

    def __init__(self, C: float = 0.01, classes: Sequence[Hashable] | None = None) -> None:
        self.C = C
        self.classes = classes

    def fit(self, X: np.ndarray, y: Any, sample_weight: np.ndarray | None = None) -> LinearHead:
        """Fit on (N, D) features and N labels."""
        codes, classes = encode(y, self.classes)
        self.classes_ = np.array(classes)
        values, valid = np.asarray(X), np.ones(len(X), bool)
        self.mean_, self.directions_ = _directions(values, valid, 0)
        present = np.unique(codes)
        self.only_ = present[0] if len(present) == 1 else None
        if self.only_ is None:
            x = _project(values, valid, self.mean_, self.directions_)
            self.model_ = _logistic(self.C).fit(x, codes, sample_weight)
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Probabilities (N, K), columns in the order of `classes_`; NaN for rows that are not finite."""
        values = np.asarray(X)
        valid, probs = valid_rows(values), np.zeros((len(values), len(self.classes_)))
        if self.only_ is not None:
            probs[:, self.only_] = 1
        else:
            projected = _project(values, valid, self.mean_, self.directions_)
            probs[:, self.model_.classes_] = self.model_.predict_proba(projected)
        probs /= probs.sum(axis=1, keepdims=True)  # float32's rounding would pass for a wrong sum
        probs[~valid] = np.nan
        return probs

    def coefficients(self) -> tuple[np.ndarray, np.ndarray]:
        """Kernel (D, K) and bias (K,): of finite rows the probabilities are softmax(X @ kernel + bias).

        Only where every class had rows.
        """
        rotated, bias = self.model_.coef_.T, self.model_.intercept_
        if rotated.shape[1] == 1:  # of two classes scikit-learn keeps one difference
            rotated, bias = rotated * [[-0.5, 0.5]], bias * [-0.5, 0.5]
        kernel = self.directions_ @ rotated
        return kernel, bias - self.mean_ @ kernel

    def predict(self, X: np.ndarray) -> np.ndarray:
        """The likeliest class of each row."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


def out_of_fold_probs(
    x: np.ndarray,
    codes: np.ndarray,
    valid: np.ndarray,
    n_classes: int,
    groups: np.ndarray,
    seed: int,
    *,
    weights: np.ndarray | None = None,
) -> tuple[np.ndarray, float]:
    """Out-of-fold probabilities (N, K) of a logistic head and its C, chosen by out-of-fold log-loss."""
    weights = np.ones(len(x)) if weights is None else np.asarray(weights)
    usable = valid & (codes != UNLABELLED)
    fold = group_folds(np.where(usable, codes, UNLABELLED), groups, seed)
    rows = np.flatnonzero(usable)
    judged = valid
    if len(rows) > SAMPLE:
        judged = np.zeros(len(x), bool)
        judged[np.random.default_rng(seed).choice(rows, SAMPLE, replace=False)] = True
    models = [_logistic(STRENGTHS[0]) for _ in range(FOLDS)]
    best, least = None, np.inf
    for strength in STRENGTHS:
        probs = _out_of_fold(models, strength, x, codes, judged, usable & judged, fold, n_classes, weights)
        rows = np.flatnonzero(usable & judged)
        loss = -np.average(np.log(probs[rows, codes[rows]]), weights=weights[rows]) if len(rows) else 0.0
        if loss >= least:
            break  # the loss has one minimum in C: weaker heads cost the most and win nothing
        best, least, chosen = probs, loss, strength
    if judged is not valid:
        best = _out_of_fold(models, chosen, x, codes, valid, usable, fold, n_classes, weights)
    best[~valid] = np.nan
    return best, chosen


def _out_of_fold(
    models: list[LogisticRegression],
    strength: float,
    x: np.ndarray,
    codes: np.ndarray,
    judged: np.ndarray,
    usable: np.ndarray,
    fold: np.ndarray,
    n_classes: int,
    weights: np.ndarray,
) -> np.ndarray:
    """Probabilities of the judged rows, each from the model of its fold, started where it stopped before."""
    probs = np.full((len(codes), n_classes), EPS)
    for k, model in enumerate(models):
        train, test = np.flatnonzero(usable & (fold != k)), np.flatnonzero(judged & (fold == k))
        present = np.unique(codes[train])
        if len(present) > 1 and len(test):
            model.set_params(C=strength).fit(x[train], codes[train], weights[train])
            probs[test[:, None], present] = model.predict_proba(x[test])
        else:
            probs[test[:, None], present] = 1
    return normalised(probs)


def group_folds(codes: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """The fold (0 … 4) of each row: stratified by label, a group never crosses folds."""
    first = np.unique(groups, return_index=True)[1]
    order = np.random.default_rng(seed).permutation(len(first))
    order = order[np.argsort(codes[first][order], kind="stable")]
    fold = np.empty(len(first), int)
    fold[order] = np.arange(len(first)) % FOLDS
    return fold[groups]


def _logistic(C: float) -> LogisticRegression:
    return LogisticRegression(C=C, max_iter=200, tol=1e-3, warm_start=True)


def principal_features(values: np.ndarray, valid: np.ndarray, seed: int, *, standardise: bool = True) -> np.ndarray:
    """(N, D) features on their principal directions: (N, D') float32; rows that are not valid become zero."""
    return _project(values, valid, *_directions(values, valid, seed, standardise=standardise))


def _directions(
    values: np.ndarray, valid: np.ndarray, seed: int, *, standardise: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and directions (D, D') that standardise, then rotate on at most DIMENSIONS components.

    Neither a logistic head under an L2 penalty nor a cosine notices a rotation, only the truncation.
    """
    rows = np.flatnonzero(valid)
    if not len(rows):
        raise ValueError(f"Expected features with finite rows. Received {len(values)} rows, none of them finite.")
    if len(rows) > COMPONENT_SAMPLE:
        rows = np.sort(np.random.default_rng(seed).choice(rows, COMPONENT_SAMPLE, replace=False))
    sample = values[rows].astype(np.float32)
    mean, scale = sample.mean(axis=0), sample.std(axis=0)
    scale[scale == 0] = 1
    if not standardise:
        mean, scale = np.zeros_like(mean), np.ones_like(scale)
    if sample.shape[1] <= DIMENSIONS:
        return mean, np.diag(1 / scale)
    sample = (sample - mean) / scale
    basis = randomized_svd(sample, DIMENSIONS, n_iter=2, power_iteration_normalizer="LU", random_state=seed)[2]
    return mean, (basis / scale).T


def _project(values: np.ndarray, valid: np.ndarray, mean: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """A chunk of rows at a time: a whole float32 copy of wide features would not fit."""
    projected = np.zeros((len(values), directions.shape[1]), np.float32)
    for rows in chunks(len(values)):
        keep = valid[rows]
        projected[rows][keep] = (values[rows][keep].astype(np.float32) - mean) @ directions
    return projected


def valid_rows(values: np.ndarray) -> np.ndarray:
    """Rows (N,) of (N, D) in which everything is finite."""
    return np.concatenate([np.isfinite(values[rows]).all(axis=1) for rows in chunks(len(values))] or [[]]) > 0


def chunks(n: int) -> list[slice]:
    """0 … n in slices of CHUNK."""
    return [slice(start, start + CHUNK) for start in range(0, n, CHUNK)]


def encode(labels: Any, classes: Sequence[Hashable] | None) -> tuple[np.ndarray, list]:
    """Labels as codes into `classes`; unlabelled rows are UNLABELLED."""
    values = pd.Series(np.asarray(labels, object)) if not isinstance(labels, pd.Series) else labels
    values = values.astype(object).reset_index(drop=True)
    empty = values.isna() | (values == "")
    names = sorted(values[~empty].unique()) if classes is None else list(classes)
    if not names or len(set(names)) != len(names):
        raise ValueError(f"Expected at least one class, each named once. Received: {names}. Pass classes=…")
    codes = pd.Index(names).get_indexer(pd.Index(values))
    codes[empty.to_numpy()] = UNLABELLED
    unknown = values[(codes == UNLABELLED) & ~empty.to_numpy()]
    if len(unknown):
        raise ValueError(
            f"Expected labels in {names}. Received: {unknown.iloc[0]!r} (row {unknown.index[0]}, "
            f"{len(unknown)} such rows). Pass classes=… with every class, or leave the label empty."
        )
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


def normalised(probs: np.ndarray) -> np.ndarray:
    """Rows that sum to 1, none of them below EPS."""
    probs = np.clip(probs, EPS, None)
    return probs / probs.sum(axis=1, keepdims=True)
