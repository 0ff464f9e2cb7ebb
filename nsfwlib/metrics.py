"""How good is the classifier, and how sure are we of it? Scores over labels and `pred_probs`, with intervals.

Near-duplicate images are not independent witnesses: wherever `groups` is taken, intervals allow for them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from scipy.stats import beta
from sklearn.metrics import confusion_matrix

TINY = 1e-12  # probabilities are kept this far from 0 before a logarithm


def _codes(labels: Sequence[str], class_names: Sequence[str], what: str = "labels") -> np.ndarray:
    """Positions of labels in class_names; a label of another class is an error."""
    values = pd.Series(np.asarray(labels), dtype=object)
    codes = pd.Index(list(class_names)).get_indexer(values)
    if (codes < 0).any():
        strange = sorted({str(v) for v in values[codes < 0]})[:5]
        raise ValueError(
            f"Expected {what} among {list(class_names)}. Received also: {strange} "
            f"({(codes < 0).sum():,} rows). Evaluate with the classes that the model was trained on."
        )
    return codes


def _check_probs(pred_probs: np.ndarray, n: int, k: int) -> np.ndarray:
    probs = np.asarray(pred_probs, dtype=np.float64)
    if probs.shape != (n, k):
        raise ValueError(
            f"Expected pred_probs of shape {(n, k)}, one column a class. Received: {probs.shape}."
        )
    if not np.isfinite(probs).all():
        bad = int((~np.isfinite(probs)).any(axis=1).sum())
        raise ValueError(
            f"Expected finite pred_probs. Received: {bad:,} rows with NaN or infinity; score them again."
        )
    return probs


def confusion(labels: Sequence[str], predicted: Sequence[str], *, class_names: Sequence[str]) -> np.ndarray:
    """Confusion matrix: int (K, K), rows the labels, columns the predictions, in the order of class_names."""
    k = len(class_names)
    rows, columns = _codes(labels, class_names), _codes(predicted, class_names, "predictions")
    if not len(rows):
        return np.zeros((k, k), dtype=np.int64)
    return confusion_matrix(rows, columns, labels=np.arange(k))


# ── Intervals ───────────────────────────────────────────────────────────────────────────────────


def jeffreys(hits: np.ndarray, trials: np.ndarray, *, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Jeffreys interval of a share: (low, high), Beta(½ + hits, ½ + misses); [0, 1] without a trial.

    Counts may be fractions, as effective counts are. No hit gives a low of 0, no miss a high of 1.
    Source: Brown, Cai, DasGupta, Interval Estimation for a Binomial Proportion, 2001.
    """
    hits, trials = np.broadcast_arrays(np.asarray(hits, dtype=float), np.asarray(trials, dtype=float))
    tail = (1 - level) / 2
    low = np.where(hits > 0, beta.ppf(tail, hits + 0.5, trials - hits + 0.5), 0.0)
    high = np.where(hits < trials, beta.ppf(1 - tail, hits + 0.5, trials - hits + 0.5), 1.0)
    return low, high


def design_effect(outcomes: np.ndarray, groups: Sequence[int] | None) -> float:
    """How many times fewer independent witnesses than rows there are, at least 1.

    `1 + (m − 1)·ρ` with m the row-weighted mean group size and ρ the intra-group correlation of the outcomes,
    by analysis of variance (Kish, Survey Sampling, 1965). ρ is taken as 1 where too few groups show it.

    Args:
        outcomes: (N,) or (N, M) numbers, such as 0 and 1 for wrong and right; columns are pooled.
        groups: (N,) near-duplicate group of each row; None means that all rows are independent.
    """
    outcomes = np.asarray(outcomes, dtype=float).reshape(len(outcomes), -1)
    if groups is None or not len(outcomes):
        return 1.0
    codes, names = pd.factorize(np.asarray(groups))
    size = np.bincount(codes).astype(float)
    n, g = len(codes), len(names)
    spread = (size**2).sum() / n
    if g == n:
        return 1.0
    if (size > 1).sum() < 10:
        return float(spread)
    sums = np.stack([np.bincount(codes, weights=column) for column in outcomes.T], axis=1)
    means = sums / size[:, None]
    between = (size[:, None] * (means - outcomes.mean(axis=0)) ** 2).sum() / (g - 1)
    within = ((outcomes**2).sum() - (size[:, None] * means**2).sum()) / (n - g)
    m0 = (n - spread) / (g - 1)
    total = between + (m0 - 1) * within
    rho = np.clip((between - within) / total, 0, 1) if total > 0 else 1.0
    return float(1 + (spread - 1) * rho)


def confusion_intervals(
    labels: Sequence[str],
    predicted: Sequence[str],
    *,
    class_names: Sequence[str],
    groups: Sequence[int] | None = None,
    level: float = 0.95,
) -> np.ndarray:
    """Interval of each share of the row-normalised confusion matrix: float (K, K, 2), low and high.

    Jeffreys on the effective count of each row: an empty cell keeps an upper bound, unlike in a bootstrap.
    """
    matrix = confusion(labels, predicted, class_names=class_names)
    support = matrix.sum(axis=1, keepdims=True)
    right = np.asarray(labels, dtype=object) == np.asarray(predicted, dtype=object)
    effect = design_effect(right, groups)
    return np.stack(jeffreys(matrix / effect, support / effect, level=level), axis=-1)


# ── Calibration ─────────────────────────────────────────────────────────────────────────────────


def calibration_table(
    labels: Sequence[str], pred_probs: np.ndarray, *, class_names: Sequence[str], bins: int = 15
) -> pd.DataFrame:
    """Confidence against accuracy in equal-width bins: `low`, `high`, `count`, `confidence`, `accuracy`."""
    codes = _codes(labels, class_names)
    probs = _check_probs(pred_probs, len(codes), len(class_names))
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == codes
    which = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(which, minlength=bins)
    safe = np.where(count > 0, count, np.nan)
    edges = np.linspace(0, 1, bins + 1)
    return pd.DataFrame({
        "low": edges[:-1],
        "high": edges[1:],
        "count": count,
        "confidence": np.bincount(which, weights=confidence, minlength=bins) / safe,
        "accuracy": np.bincount(which, weights=right, minlength=bins) / safe,
    })  # fmt: skip


def calibration_error(
    labels: Sequence[str], pred_probs: np.ndarray, *, class_names: Sequence[str], bins: int = 15
) -> float:
    """Expected calibration error of the top class in [0, 1]: Σ (n_b / N) · |accuracy_b − confidence_b|.

    Equal-width bins, as Guo et al., On Calibration of Modern Neural Networks, 2017. NaN without rows.
    """
    table = calibration_table(labels, pred_probs, class_names=class_names, bins=bins).dropna()
    total = table["count"].sum()
    return (
        float((table["count"] * (table["accuracy"] - table["confidence"]).abs()).sum() / total)
        if total
        else np.nan
    )


def fit_temperature(labels: Sequence[str], log_probs: np.ndarray, *, class_names: Sequence[str]) -> float:
    """Temperature T > 0 that minimises the log-loss of softmax(log_probs / T); fit it on validation rows.

    Args:
        labels: (N,) class of each row.
        log_probs: (N, K) logits, or logarithms of probabilities: softmax does not see the difference.
        class_names: of the columns.

    Returns:
        T, between 0.05 and 20; above 1 the model was over-confident. Dividing never changes the top class.
    """
    codes = _codes(labels, class_names)
    logits = _check_probs(log_probs, len(codes), len(class_names))
    rows = np.arange(len(codes))
    if not len(codes):
        raise ValueError("Expected validation rows to fit a temperature on. Received: none; keep T = 1.")

    def loss(log_t: float) -> float:
        return -log_softmax(logits / np.exp(log_t), axis=1)[rows, codes].mean()

    return float(np.exp(minimize_scalar(loss, bounds=np.log([0.05, 20]), method="bounded").x))


def apply_temperature(pred_probs: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities (N, K) after dividing their logarithms by the temperature; the top class stays."""
    logs = np.log(np.clip(np.asarray(pred_probs, dtype=float), TINY, None))
    return np.exp(log_softmax(logs / temperature, axis=1))


# ── Scores ──────────────────────────────────────────────────────────────────────────────────────


def scores(
    labels: Sequence[str],
    pred_probs: np.ndarray,
    *,
    class_names: Sequence[str],
    groups: Sequence[int] | None = None,
    level: float = 0.95,
) -> pd.DataFrame:
    """Scores with intervals, one a row: `score`, `class` ("" for all), `value`, `low`, `high`, `support`."""
    codes = _codes(labels, class_names)
    probs = _check_probs(pred_probs, len(codes), len(class_names))
    top = probs.argmax(axis=1)
    names = np.asarray(class_names, dtype=object)
    matrix = confusion(names[codes], names[top], class_names=class_names)
    hits = np.diag(matrix)
    effect = design_effect(codes == top, groups)
    rows = [("accuracy", "", hits.sum(), len(codes))]
    rows += [("recall", c, h, n) for c, h, n in zip(class_names, hits, matrix.sum(axis=1), strict=True)]
    rows += [("precision", c, h, n) for c, h, n in zip(class_names, hits, matrix.sum(axis=0), strict=True)]
    table = pd.DataFrame(rows, columns=["score", "class", "hits", "support"])
    table["value"] = table["hits"] / table["support"].where(table["support"] > 0)
    table["low"], table["high"] = jeffreys(table["hits"] / effect, table["support"] / effect, level=level)
    return table[["score", "class", "value", "low", "high", "support"]]
