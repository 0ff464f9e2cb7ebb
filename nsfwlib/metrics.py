"""How good is the classifier, and how sure are we of it? Scores over labels and `pred_probs`, with intervals.

Near-duplicate images are not independent witnesses: wherever `groups` is taken, intervals allow for them.
Shares (accuracy, recall, cells of a confusion matrix) have Jeffreys intervals on an effective count, since a
bootstrap calls an empty cell certain; everything else is bootstrapped by group.
"""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.sparse import csr_array, vstack
from scipy.special import log_softmax
from scipy.stats import beta, binomtest, false_discovery_control, fisher_exact, norm
from sklearn.metrics import average_precision_score, confusion_matrix

TINY = 1e-12  # probabilities are kept this far from 0 before a logarithm
MOST_THRESHOLDS = 2048  # bootstrapped curves use at most so many distinct thresholds
FEW_GROUPS = 10  # with fewer groups of several images, near-duplicates are taken to agree fully


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
        raise ValueError(f"Expected pred_probs of shape {(n, k)}, one column a class. Received: {probs.shape}.")
    if not np.isfinite(probs).all():
        bad = int((~np.isfinite(probs)).any(axis=1).sum())
        raise ValueError(f"Expected finite pred_probs. Received: {bad:,} rows with NaN or infinity; score them again.")
    return probs


def _group_codes(groups: Sequence[int] | None, n: int) -> np.ndarray:
    """(N,) group numbers from 0; every row is its own group where groups is None."""
    if groups is None:
        return np.arange(n)
    if len(groups) != n:
        raise ValueError(f"Expected one group a row: {n}. Received: {len(groups)} groups.")
    return pd.factorize(np.asarray(groups))[0]


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
    misses = np.maximum(trials - hits, 0)
    low = np.where(hits > 0, beta.ppf(tail, hits + 0.5, misses + 0.5), 0.0)
    high = np.where(misses > 0, beta.ppf(1 - tail, hits + 0.5, misses + 0.5), 1.0)
    return low, high


def group_correlation(outcomes: np.ndarray, groups: Sequence[int] | None) -> float:
    """Correlation in [0, 1] of an outcome within near-duplicate groups, by one-way analysis of variance.

    1 where fewer than 10 groups have several rows or nothing varies: too little to believe anything milder.

    Args:
        outcomes: (N,) numbers, such as 0 and 1 for wrong and right.
        groups: (N,) group of each row; None means that all rows are independent.
    """
    y = np.asarray(outcomes, dtype=float)
    codes = _group_codes(groups, len(y))
    size = np.bincount(codes)
    n, g = len(y), len(size)
    if (size > 1).sum() < FEW_GROUPS or np.ptp(y) == 0:
        return 1.0
    means = np.bincount(codes, weights=y) / size
    between = (size * (means - y.mean()) ** 2).sum() / (g - 1)
    within = ((y - means[codes]) ** 2).sum() / (n - g)
    typical = (n - (size**2).sum() / n) / (g - 1)
    return float(np.clip((between - within) / (between + (typical - 1) * within), 0, 1))


def effective_count(groups: Sequence[int] | None, n: int, *, correlation: float = 1.0) -> float:
    """How many independent rows n rows are worth: n / (1 + (m − 1)·ρ), m the row-weighted mean group size.

    Source: Kish, Survey Sampling, 1965.
    """
    size = np.bincount(_group_codes(groups, n)).astype(float)
    return n / (1 + ((size**2).sum() / n - 1) * correlation) if n else 0.0


def effective_support(
    labels: Sequence[str],
    predicted: Sequence[str],
    *,
    class_names: Sequence[str],
    groups: Sequence[int] | None = None,
) -> np.ndarray:
    """How many independent images each class's images are worth: float (K,), for `confusion_intervals`."""
    rows, columns = _codes(labels, class_names), _codes(predicted, class_names, "predictions")
    members = _group_codes(groups, len(rows))
    rho = group_correlation(rows == columns, members)
    among = [members[rows == k] for k in range(len(class_names))]
    return np.array([effective_count(part, len(part), correlation=rho) for part in among])


def confusion_intervals(matrix: np.ndarray, *, support: np.ndarray | None = None, level: float = 0.95) -> np.ndarray:
    """Jeffreys interval of each share of the row-normalised confusion matrix: float (K, K, 2), low and high.

    Args:
        matrix: (K, K) counts.
        support: (K,) what each row is worth, from `effective_support`; by default its sum, as if no two images
            were near-duplicates.
        level: of the intervals, which hold for each cell by itself.
    """
    matrix = np.asarray(matrix, dtype=float)
    total = matrix.sum(axis=1, keepdims=True)
    worth = total if support is None else np.asarray(support, dtype=float)[:, None]
    return np.stack(jeffreys(matrix / np.where(total > 0, total, 1) * worth, worth, level=level), axis=-1)


def confused_pairs(
    matrix: np.ndarray, *, class_names: Sequence[str], intervals: np.ndarray | None = None, top: int = 5
) -> pd.DataFrame:
    """The most frequent confusions, as shares of the label's images, each also as a sentence.

    Returns:
        One row a pair: `label`, `predicted`, `count`, `share`, `low`, `high` (NaN without intervals), `sentence`.
    """
    matrix = np.asarray(matrix)
    support = matrix.sum(axis=1)
    rows = []
    for i, j in zip(*np.nonzero(matrix * ~np.eye(len(matrix), dtype=bool)), strict=True):
        low, high = (np.nan, np.nan) if intervals is None else intervals[i, j]
        share, (a, b) = matrix[i, j] / support[i], (class_names[i], class_names[j])
        span = "" if intervals is None else f", interval {low:.1%} to {high:.1%}"
        sentence = f"{matrix[i, j]:,.0f} of {support[i]:,.0f} {a} images ({share:.1%}{span}) are taken for {b}."
        rows.append((a, b, matrix[i, j], share, low, high, sentence))
    table = pd.DataFrame(rows, columns=["label", "predicted", "count", "share", "low", "high", "sentence"])
    return table.sort_values("share", ascending=False, kind="stable", ignore_index=True).head(top)


# ── Calibration ─────────────────────────────────────────────────────────────────────────────────


def _confidence_bins(probs: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Confidence (N,) of the top class and the number of its equal-width bin, upper edge included."""
    confidence = probs.max(axis=1, initial=0)
    return confidence, np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)


def calibration_table(
    labels: Sequence[str],
    pred_probs: np.ndarray,
    *,
    class_names: Sequence[str],
    groups: Sequence[int] | None = None,
    bins: int = 15,
    level: float = 0.95,
) -> pd.DataFrame:
    """Confidence against accuracy, one row a bin of equal width.

    Returns:
        `low_edge`, `high_edge`, `count`, `confidence`, `accuracy` (NaN in bins without an image), and `low` and
        `high` of the accuracy.
    """
    codes = _codes(labels, class_names)
    probs = _check_probs(pred_probs, len(codes), len(class_names))
    confidence, which = _confidence_bins(probs, bins)
    right = probs.argmax(axis=1) == codes
    count = np.bincount(which, minlength=bins)
    some = np.where(count > 0, count, np.nan)
    share = np.bincount(which, weights=right, minlength=bins) / some
    members = _group_codes(groups, len(codes))
    rho = group_correlation(right, members)
    worth = np.array([effective_count(members[which == b], n, correlation=rho) for b, n in enumerate(count)])
    low, high = jeffreys(np.nan_to_num(share) * worth, worth, level=level)
    edges = np.linspace(0, 1, bins + 1)
    table = pd.DataFrame({"low_edge": edges[:-1], "high_edge": edges[1:], "count": count})
    table["confidence"] = np.bincount(which, weights=confidence, minlength=bins) / some
    return table.assign(accuracy=share, low=low, high=high)


def calibration_error(
    labels: Sequence[str], pred_probs: np.ndarray, *, class_names: Sequence[str], bins: int = 15
) -> float:
    """Expected calibration error of the top class in [0, 1]: Σ (n_b / N) · |accuracy_b − confidence_b|.

    Equal-width bins, as Guo et al., On Calibration of Modern Neural Networks, 2017. NaN without rows. It errs
    upwards on few images: chance alone makes bins differ.
    """
    codes = _codes(labels, class_names)
    probs = _check_probs(pred_probs, len(codes), len(class_names))
    confidence, which = _confidence_bins(probs, bins)
    gap = np.bincount(which, weights=(probs.argmax(axis=1) == codes) - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(codes)) if len(codes) else np.nan


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
    draws: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """All scores with their intervals.

    Accuracy, recall, precision and F1 have Jeffreys intervals on effective counts (F1 through the share
    TP / (TP + FP + FN), of which it is a rising function); balanced accuracy averages draws from the recalls;
    average precision, log-loss, Brier score and calibration error have Bayesian bootstrap intervals by group, that
    of average precision with one more group ranked last, that of the calibration error allowing for its bias.

    Args:
        labels: (N,) class of each row.
        pred_probs: (N, K) probabilities.
        class_names: (K,) of the columns.
        groups: (N,) near-duplicate group of each row.
        level: of the intervals.
        draws: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        One row a score: `score`, `class` ("" for all), `value`, `low`, `high`, `support` (images), `note`.
    """
    codes = _codes(labels, class_names)
    probs = _check_probs(pred_probs, len(codes), len(class_names))
    members = _group_codes(groups, len(codes))
    rng = np.random.default_rng(seed)
    shares = _share_scores(codes, probs.argmax(axis=1), class_names, members, level)
    recalls = shares[shares["score"].eq("recall")]
    rows = [_balanced_accuracy(recalls, level, draws, rng)]
    rows += _bootstrapped_scores(codes, probs, class_names, members, level, draws, rng) if len(codes) else []
    table = pd.concat([shares, pd.DataFrame(rows)], ignore_index=True)
    table["note"] = np.where(table["value"].isna(), "no image to measure it on", "")
    return table[["score", "class", "value", "low", "high", "support", "note"]]


def _share_scores(
    codes: np.ndarray, top: np.ndarray, class_names: Sequence[str], members: np.ndarray, level: float
) -> pd.DataFrame:
    """Accuracy and each class's recall, precision and F1, with Jeffreys intervals on effective counts."""
    right = codes == top
    rho = group_correlation(right, members)
    rows = [("accuracy", "", np.ones(len(codes), bool), right)]
    for k, name in enumerate(class_names):
        label, guess = codes == k, top == k
        rows += [("recall", name, label, right), ("precision", name, guess, right), ("f1", name, label | guess, right)]
    records = []
    for score, name, among, hit in rows:
        n = int(among.sum())
        share = hit[among].mean() if n else np.nan
        worth = effective_count(members[among], n, correlation=rho)
        low, high = jeffreys(np.nan_to_num(share) * worth, worth, level=level)
        values = np.array([share, low, high], dtype=float)
        values = 2 * values / (1 + values) if score == "f1" else values
        records.append((score, name, *values, n, worth))
    return pd.DataFrame(records, columns=["score", "class", "value", "low", "high", "support", "worth"])


def _balanced_accuracy(recalls: pd.DataFrame, level: float, draws: int, rng: np.random.Generator) -> dict:
    """Mean recall of the classes that have images; its interval from the recalls' Beta distributions."""
    seen = recalls[recalls["support"] > 0]
    row = {"score": "balanced accuracy", "class": "", "support": int(seen["support"].sum())}
    if seen.empty:
        return row | {"value": np.nan, "low": 0.0, "high": 1.0}
    hits = (seen["value"] * seen["worth"]).to_numpy()
    misses = seen["worth"].to_numpy() - hits
    low, high = np.quantile(
        rng.beta(hits + 0.5, misses + 0.5, (max(draws, 4000), len(seen))).mean(axis=1), _tails(level)
    )
    return row | {"value": seen["value"].mean(), "low": low, "high": high}


def _tails(level: float) -> list[float]:
    return [(1 - level) / 2, (1 + level) / 2]


def _bootstrapped_scores(
    codes: np.ndarray,
    probs: np.ndarray,
    class_names: Sequence[str],
    members: np.ndarray,
    level: float,
    draws: int,
    rng: np.random.Generator,
) -> list[dict]:
    n, k = probs.shape
    truth = np.eye(k)[codes]
    losses = np.stack([-np.log(np.clip(probs[np.arange(n), codes], TINY, 1)), ((probs - truth) ** 2).sum(1)], 1)
    confidence, which = _confidence_bins(probs, 15)
    gaps = csr_array(((probs.argmax(1) == codes) - confidence, (which, np.arange(n))), shape=(15, n))
    present = [c for c in range(k) if 0 < truth[:, c].sum() < n]
    curves = [_ThresholdBins(truth[:, c] > 0, probs[:, c]) for c in present]
    sums = vstack([csr_array(losses.T), gaps]).astype(np.float32)  # sparse: BLAS is 100 times slower on this shape
    one_more = (np.bincount(members).astype(float) ** 2).sum() / n
    replicates = []
    for weight in _bootstrap_weights(members, draws, rng):
        extra = one_more * rng.standard_exponential(weight.shape[1])
        means = sums @ weight / weight.sum(axis=0)
        replicates.append(np.vstack([means, *(curve.average_precision(weight, extra) for curve in curves)]))
    replicates = np.hstack(replicates)
    error, *span = _calibration_interval(gaps.sum(axis=1) / n, replicates[2:17], level)
    low, high = np.quantile(np.delete(replicates, np.s_[2:17], axis=0), _tails(level), axis=1)
    low, high = np.insert(low, 2, span[0]), np.insert(high, 2, span[1])
    values = [*losses.mean(axis=0), error] + [average_precision_score(truth[:, c], probs[:, c]) for c in present]
    high = np.maximum(high, values)  # one more group ranked last may push the high end below what was measured
    names = [("log-loss", ""), ("Brier score", ""), ("calibration error", "")]
    names += [("average precision", class_names[c]) for c in present]
    support = [n] * 3 + [int(truth[:, c].sum()) for c in present]
    rows = [
        {"score": s, "class": c, "value": v, "low": a, "high": b, "support": m}
        for (s, c), v, a, b, m in zip(names, values, low, high, support, strict=True)
    ]
    missing = [c for c in range(k) if c not in present]
    nothing = {"value": np.nan, "low": 0.0, "high": 1.0}
    return rows + [
        {"score": "average precision", "class": class_names[c], "support": int(truth[:, c].sum())} | nothing
        for c in missing
    ]


def _calibration_interval(gap: np.ndarray, replicates: np.ndarray, level: float) -> tuple[float, float, float]:
    """Calibration error of the gaps (bins,) and its interval, given their bootstrap replicates (bins, draws).

    Chance only ever raises the error. Its low end is therefore that of the smallest multiple of the gaps from which
    chance could have raised it to what is seen; the bootstrap's own quantile is high enough for the high end.
    """
    error = np.abs(gap).sum()
    chance = replicates - gap[:, None]
    shrunk = np.linspace(0, 1, 41)
    reach = [np.quantile(np.abs(part * gap[:, None] + chance).sum(axis=0), _tails(level)[1]) for part in shrunk]
    low = error * shrunk[np.argmax(np.array(reach) >= error)]
    return float(error), float(low), float(max(reach[-1], error))


def _bootstrap_weights(members: np.ndarray, draws: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Blocks (N, B) of positive row weights, one exponential draw a group; B sums to draws.

    Source: Rubin, The Bayesian Bootstrap, 1981. No resample ever loses a class.
    """
    block = int(np.clip(4_000_000 // len(members), 1, draws))
    for start in range(0, draws, block):
        weight = rng.standard_exponential((members.max() + 1, min(block, draws - start)), dtype=np.float32)
        yield weight[members]


class _ThresholdBins:
    """Rows cut at their distinct scores, highest first, at most MOST_THRESHOLDS of them."""

    def __init__(self, positive: np.ndarray, score: np.ndarray) -> None:
        order = np.argsort(-score, kind="stable")
        starts = np.flatnonzero(np.r_[True, score[order][1:] != score[order][:-1]])
        if len(starts) > MOST_THRESHOLDS:
            starts = starts[np.linspace(0, len(starts) - 1, MOST_THRESHOLDS).astype(int)]
        which = np.zeros(len(score), dtype=int)
        which[starts[1:]] = 1
        ones, shape = np.ones(len(score), dtype=np.float32), (len(starts), len(score))
        self.all = csr_array((ones, (which.cumsum(), order)), shape=shape)
        self.positive = csr_array((ones * positive[order], (which.cumsum(), order)), shape=shape)
        self.positive.eliminate_zeros()

    def average_precision(self, weight: np.ndarray, extra: np.ndarray) -> np.ndarray:
        """(B,) average precision under row weights (N, B), with one more positive of weight extra (B,) ranked last.

        Rows ranked last are rare and decide how bad it can get: without one more, the interval misses them.
        """
        total = (self.all @ weight).cumsum(axis=0, dtype=np.float64)
        hits = (self.positive @ weight).astype(np.float64)
        found = hits.cumsum(axis=0)
        last = extra * (found[-1] + extra) / (total[-1] + extra)
        return ((hits * found / total).sum(axis=0) + last) / (found[-1] + extra)


# ── Safe or unsafe: which threshold ─────────────────────────────────────────────────────────────


def unsafe_score(pred_probs: np.ndarray, *, class_names: Sequence[str], unsafe_classes: Sequence[str]) -> np.ndarray:
    """(N,) probability of being unsafe: the sum over the unsafe classes."""
    strange = sorted(set(unsafe_classes) - set(class_names))
    if strange or not 0 < len(set(unsafe_classes)) < len(class_names):
        raise ValueError(
            f"Expected unsafe_classes to be some, not all, of {list(class_names)}. Received: {list(unsafe_classes)}."
        )
    chosen = np.isin(np.asarray(class_names), list(unsafe_classes))
    return np.asarray(pred_probs, dtype=float)[:, chosen].sum(axis=1)


def threshold_curve(
    unsafe: np.ndarray,
    score: np.ndarray,
    *,
    groups: Sequence[int] | None = None,
    level: float = 0.95,
    most: int = 400,
) -> pd.DataFrame:
    """What each threshold does, for precision-recall and ROC curves; an image is flagged at `score >= threshold`.

    Args:
        unsafe: bool (N,), the truth.
        score: (N,), higher is more unsafe.
        groups: (N,) near-duplicate group of each row.
        level: of the intervals, which hold for each threshold by itself.
        most: rows of the result at most, evenly picked among the distinct scores.

    Returns:
        `threshold` (falling), and `recall`, `fpr`, `precision`, each with `_low` and `_high`. Precision is at the
        prevalence of these rows. Columns are NaN with intervals [0, 1] where a side has no image.
    """
    unsafe, score, members = _check_unsafe(unsafe, score, groups)
    threshold, hits, alarms = _counts_by_threshold(unsafe, score)
    few = np.unique(np.linspace(0, len(threshold) - 1, min(most, len(threshold))).astype(int))
    hits, alarms = hits[few], alarms[few]
    rho = group_correlation(score, members)
    table = pd.DataFrame({"threshold": threshold[few]})
    for name, part, among in (("recall", hits, unsafe), ("fpr", alarms, ~unsafe)):
        total = int(among.sum())
        worth = effective_count(members[among], total, correlation=rho)
        _add_share(table, name, part, np.full(len(few), total), worth / max(total, 1), level)
    worth = effective_count(members, len(score), correlation=rho) / max(len(score), 1)
    _add_share(table, "precision", hits, hits + alarms, worth, level)
    return table


def _add_share(
    table: pd.DataFrame, name: str, hits: np.ndarray, trials: np.ndarray, worth: float, level: float
) -> None:
    table[name] = hits / np.where(trials > 0, trials, np.nan)
    table[f"{name}_low"], table[f"{name}_high"] = jeffreys(hits * worth, trials * worth, level=level)


def _check_unsafe(
    unsafe: np.ndarray, score: np.ndarray, groups: Sequence[int] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    unsafe, score = np.asarray(unsafe), np.asarray(score, dtype=float)
    if unsafe.dtype != bool or score.shape != unsafe.shape:
        raise ValueError(
            f"Expected unsafe as bool and score as numbers of one length. Received: {unsafe.dtype} {unsafe.shape}"
            f" and {score.shape}."
        )
    if not np.isfinite(score).all():
        raise ValueError(f"Expected finite scores. Received: {(~np.isfinite(score)).sum():,} NaN or infinite.")
    return unsafe, score, _group_codes(groups, len(score))


def _counts_by_threshold(unsafe: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct scores, falling, and the unsafe and safe images at or above each."""
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.r_[score[order][1:] != score[order][:-1], True][: len(score)])
    hits = np.cumsum(unsafe[order])[ends]
    return score[order][ends], hits, ends + 1 - hits


def expected_counts(
    recall: np.ndarray, fpr: np.ndarray, *, prevalence: np.ndarray, uploads: int = 100_000
) -> pd.DataFrame:
    """What to expect of so many uploads: `flagged`, `false_alarms`, `missed` (images) and `precision`.

    Bayes' rule: recall and false-positive rate are taken to hold at the deployment's prevalence, that is, safe
    and unsafe uploads there to be like those measured.
    """
    recall, fpr, prevalence = np.broadcast_arrays(np.atleast_1d(recall), fpr, np.asarray(prevalence, dtype=float))
    found, alarms = uploads * prevalence * recall, uploads * (1 - prevalence) * fpr
    precision = found / np.where(found + alarms > 0, found + alarms, np.nan)
    missed = uploads * prevalence - found
    return pd.DataFrame({"flagged": found + alarms, "false_alarms": alarms, "missed": missed, "precision": precision})


def at_threshold(
    unsafe: np.ndarray,
    score: np.ndarray,
    threshold: float,
    *,
    prevalence: Sequence[float] | float,
    groups: Sequence[int] | None = None,
    uploads: int = 100_000,
    level: float = 0.95,
    draws: int = 4000,
    seed: int = 0,
) -> pd.DataFrame:
    """One row a prevalence: recall, false-positive rate, precision and counts per `uploads` at one threshold.

    Every number has `_low` and `_high`, from Beta distributions of recall and false-positive rate on effective
    counts. Arguments as in `threshold_curve`; `prevalence` is the share of unsafe uploads, in [0, 1].
    """
    unsafe, score, members = _check_unsafe(unsafe, score, groups)
    prevalence = np.atleast_1d(np.asarray(prevalence, dtype=float))
    if not ((prevalence >= 0) & (prevalence <= 1)).all():
        raise ValueError(f"Expected prevalence as a share in [0, 1]. Received: {prevalence.tolist()}.")
    flagged = score >= threshold
    rho = group_correlation(flagged, members)
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"prevalence": prevalence, "threshold": threshold})
    shares, samples = [], []
    for name, among in (("recall", unsafe), ("fpr", ~unsafe)):
        n = int(among.sum())
        share, worth = flagged[among].mean() if n else np.nan, effective_count(members[among], n, correlation=rho)
        hits = np.nan_to_num(share) * worth
        table[name] = share
        table[f"{name}_low"], table[f"{name}_high"] = jeffreys(hits, worth, level=level)
        shares.append(share)
        samples.append(rng.beta(hits + 0.5, worth - hits + 0.5, draws))
    exact = expected_counts(*shares, prevalence=prevalence, uploads=uploads)
    for name in ("precision", "flagged", "false_alarms", "missed"):
        table[name] = exact[name]
    for i, share in enumerate(prevalence):
        spread = expected_counts(*samples, prevalence=share, uploads=uploads).quantile(_tails(level))
        for name in spread:
            table.loc[i, [f"{name}_low", f"{name}_high"]] = spread[name].to_numpy()
    return table


def operating_points(
    unsafe: np.ndarray,
    scores: np.ndarray,
    *,
    validation: tuple[np.ndarray, np.ndarray],
    wishes: Sequence[tuple[str, float]] = (("precision", 0.9), ("recall", 0.95), ("fpr", 0.01)),
    prevalence: Sequence[float] = (0.5, 0.1, 0.01, 0.001),
    groups: Sequence[int] | None = None,
    uploads: int = 100_000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Thresholds chosen on validation rows for each wish, and what they do on test rows at each prevalence.

    Args:
        unsafe: bool (N,), truth of the test rows.
        scores: (N,) of the test rows, higher is more unsafe.
        validation: the same two arrays of the validation rows.
        wishes: ("precision" or "recall", at least) or ("fpr", at most). A threshold for precision depends on the
            prevalence; of several that grant a wish, the one that flags most unsafe images is taken for precision
            and false-positive rate, the one that flags fewest safe images for recall.
        prevalence: shares of unsafe uploads expected in deployment.
        groups: (N,) near-duplicate group of the test rows.
        uploads: to which counts refer.
        level: of the intervals.
        seed: of the draws behind them.

    Returns:
        One row a wish and prevalence: `wish`, the columns of `at_threshold`, and `note`, a sentence where no
        threshold grants the wish (then the numbers are NaN) or the evidence is thin.
    """
    val_unsafe, val_scores, _ = _check_unsafe(*validation, None)
    curve = _counts_by_threshold(val_unsafe, val_scores)
    sides = int(val_unsafe.sum()), int((~val_unsafe).sum())
    rows = []
    for kind, wish in wishes:
        if kind not in ("precision", "recall", "fpr") or not 0 <= wish <= 1:
            raise ValueError(
                f"Expected wishes such as ('precision', 0.9), ('recall', 0.95) or ('fpr', 0.01), shares in [0, 1]. "
                f"Received: {(kind, wish)!r}."
            )
        for share in prevalence:
            threshold, note = _choose_threshold(curve, sides, kind, wish, share)
            row = at_threshold(
                unsafe, scores, threshold, prevalence=share, groups=groups, uploads=uploads, level=level, seed=seed
            )
            row.insert(0, "wish", f"{kind} {'≤' if kind == 'fpr' else '≥'} {wish:g}")
            if np.isnan(threshold):
                row.loc[:, row.columns[3:]] = np.nan
            rows.append(row.assign(note=note))
    return pd.concat(rows, ignore_index=True)


def _choose_threshold(
    curve: tuple[np.ndarray, np.ndarray, np.ndarray], sides: tuple[int, int], kind: str, wish: float, prevalence: float
) -> tuple[float, str]:
    """Threshold on the validation curve that grants the wish, or NaN, and a sentence about it."""
    threshold, hits, alarms = curve
    if not all(sides):
        return np.nan, f"Validation has {sides[0]:,} unsafe and {sides[1]:,} safe images: both kinds are needed."
    recall, fpr = hits / sides[0], alarms / sides[1]
    if kind == "precision":
        granted = expected_counts(recall, fpr, prevalence=prevalence)["precision"].to_numpy() >= wish
    else:
        granted = recall >= wish if kind == "recall" else fpr <= wish
    if not granted.any():
        return np.nan, f"No threshold reaches {kind} {wish:g} at prevalence {prevalence:g} on validation."
    chosen = np.flatnonzero(granted)[0 if kind == "recall" else -1]
    if prevalence in (0, 1):
        return threshold[chosen], f"Prevalence {prevalence:g}: precision is {prevalence:g} whatever the threshold."
    if kind != "recall" and alarms[chosen] < 5:
        return threshold[chosen], f"Rests on {alarms[chosen]} false alarms among {sides[1]:,} safe validation images."
    return threshold[chosen], ""


# ── Where it fails ──────────────────────────────────────────────────────────────────────────────


def slice_attributes(images: pd.DataFrame, metadata: pd.DataFrame | None = None) -> pd.DataFrame:
    """Attributes to slice by, one row an image in the order of `images`: text or numbers, NaN where unknown.

    Args:
        images: rows of the images table; columns that it lacks give no attribute.
        metadata: a table of the user's own with a `path` column; all its other columns are taken.

    Warns:
        UserWarning: some or all paths of the metadata match no image, or one path comes twice (its first row counts).
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
    matched = metadata["path"].isin(path)
    if not matched.all() or metadata["path"].duplicated().any():
        warnings.warn(
            f"{matched.sum():,} of {len(metadata):,} metadata rows match an image; first unmatched: "
            f"{metadata.loc[~matched, 'path'].head(1).tolist()}; "
            f"{metadata['path'].duplicated().sum():,} repeat a path. Paths are relative to data_dir, with '/'.",
            stacklevel=3,
        )
    return metadata.drop_duplicates("path").set_index("path").reindex(path).reset_index(drop=True)


def slices(
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
    members = _group_codes(groups, len(right))
    rho = group_correlation(right, members)
    rows = []
    for name in attributes:
        values = _slice_values(attributes[name])
        for value in pd.unique(values):
            inside = values == value
            if not inside.all():
                rows.append((name, value, *_slice_row(right, inside, members, rho, minimum, level)))
    columns = ["attribute", "value", "images", "accuracy", "low", "high", "rest", "p"]
    table = pd.DataFrame(rows, columns=columns).astype({"p": float})
    tested = table["p"].notna()
    table["q"] = np.nan
    if tested.any():
        table.loc[tested, "q"] = false_discovery_control(table.loc[tested, "p"])
    table["note"] = np.where(tested, "", f"fewer than {minimum} images here or elsewhere: no conclusion")
    order = table.assign(few=~tested).sort_values(["few", "accuracy", "q"], kind="stable").index
    return table.loc[order].reset_index(drop=True)


def _slice_values(column: pd.Series) -> np.ndarray:
    """Text value of each row; numbers with many values become quartile ranges."""
    if pd.api.types.is_numeric_dtype(column) and column.nunique() > 8:
        quarter, edges = pd.qcut(column, 4, duplicates="drop", labels=False, retbins=True)
        names = [f"{low:.3g} to {high:.3g}" for low, high in itertools.pairwise(edges)]
        column = quarter.map(dict(enumerate(names)))
    return column.astype(object).where(column.notna(), "unknown").astype(str).to_numpy()


def _slice_row(
    right: np.ndarray, inside: np.ndarray, members: np.ndarray, rho: float, minimum: int, level: float
) -> tuple[int, float, float, float, float, float]:
    counts = []
    for part in (inside, ~inside):
        n = int(part.sum())
        worth = effective_count(members[part], n, correlation=rho)
        counts.append((right[part].mean() * worth, worth))
    (hits, worth), (others, rest) = counts
    low, high = jeffreys(hits, worth, level=level)
    p = np.nan
    if min(inside.sum(), (~inside).sum()) >= minimum:
        p = fisher_exact(np.rint([[hits, worth - hits], [others, rest - others]]).astype(int)).pvalue
    return int(inside.sum()), hits / worth, float(low), float(high), others / rest, p


# ── Better than before? ─────────────────────────────────────────────────────────────────────────


def compare(
    right: Sequence[bool],
    baseline_right: Sequence[bool],
    *,
    groups: Sequence[int] | None = None,
    level: float = 0.95,
) -> dict[str, float | int | str]:
    """Paired difference in accuracy of two models on the same rows.

    Interval: adjusted Wald of Agresti and Min (Simple improved confidence intervals for comparing matched
    proportions, 2005) on an effective count. Test: exact McNemar, that is a binomial test on the groups in which one
    model has more right than the other; each near-duplicate group votes once.

    Returns:
        `accuracy`, `baseline`, `difference`, `low`, `high`, `better` and `worse` (groups), `p`, `images`, `sentence`.
    """
    right, other = np.asarray(right, dtype=bool), np.asarray(baseline_right, dtype=bool)
    if right.shape != other.shape or not len(right):
        raise ValueError(f"Expected the same rows, at least one. Received: {len(right)} and {len(other)} answers.")
    members = _group_codes(groups, len(right))
    step = right.astype(int) - other
    worth = effective_count(members, len(right), correlation=group_correlation(step, members))
    gain, loss = (step > 0).mean() * worth + 0.5, (step < 0).mean() * worth + 0.5
    centre = (gain - loss) / (worth + 2)
    half = norm.ppf((1 + level) / 2) * np.sqrt((gain + loss) - (gain - loss) ** 2 / (worth + 2)) / (worth + 2)
    votes = np.sign(np.bincount(members, weights=step))
    better, worse = int((votes > 0).sum()), int((votes < 0).sum())
    p = float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
    low, high = max(centre - half, -1), min(centre + half, 1)
    sentence = (
        f"Accuracy {right.mean():.1%} against {other.mean():.1%}: a difference of {100 * step.mean():+.1f} points "
        f"({100 * low:+.1f} to {100 * high:+.1f}), p = {p:.2g}."
    )
    return {
        "accuracy": right.mean(), "baseline": other.mean(), "difference": step.mean(), "low": low, "high": high,
        "better": better, "worse": worse, "p": p, "images": len(right), "sentence": sentence,
    }  # fmt: skip


# ── Truth about noisily labelled rows: the audit ────────────────────────────────────────────────

STRATA = ("reviewed before", "disagreement", "suspicious agreement", "agreement")


def draw_audit(
    labels: Sequence[str],
    predicted: Sequence[str],
    suspicion: Sequence[float],
    *,
    agreements: int = 100,
    reviewed: Sequence[bool] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Which rows a person has to look at so that accuracy can be estimated without bias.

    All rows in which label and prediction disagree, and a random sample of agreements, half of it from the most
    suspicious fifth. Draw once per model, before anyone looks, and keep the result: `enlarge_audit` adds to it.

    Args:
        labels: (N,) labels as they are.
        predicted: (N,) predicted labels.
        suspicion: (N,) higher is more suspect, such as 1 − P(label).
        agreements: how many agreements to look at.
        reviewed: (N,) rows whose truth is known already; they are a stratum of their own and cost nothing.
        seed: of the sample.

    Returns:
        In input order: `stratum` (one of STRATA), `order` (random place within the stratum, from 0) and `picked`.
        Review picked rows in the order of `order`: where a person stops early, those seen are still a random sample.
    """
    labels, predicted = np.asarray(labels, dtype=object), np.asarray(predicted, dtype=object)
    suspicion = np.asarray(suspicion, dtype=float)
    if not len(labels) == len(predicted) == len(suspicion):
        raise ValueError(
            f"Expected labels, predictions and suspicion of one length. Received: {len(labels)}, {len(predicted)}"
            f" and {len(suspicion)}."
        )
    known = np.zeros(len(labels), bool) if reviewed is None else np.asarray(reviewed, dtype=bool)
    agree = np.flatnonzero((labels == predicted) & ~known)
    worst = agree[np.argsort(-suspicion[agree], kind="stable")][: round(len(agree) / 5)]
    stratum = np.full(len(labels), STRATA[3], dtype=object)
    stratum[worst], stratum[labels != predicted], stratum[known] = STRATA[2], STRATA[1], STRATA[0]
    audit = pd.DataFrame({"stratum": stratum, "order": np.random.default_rng(seed).permutation(len(labels))})
    audit["order"] = audit.groupby("stratum")["order"].rank().astype(int) - 1
    return enlarge_audit(audit, agreements=agreements)


def enlarge_audit(audit: pd.DataFrame, *, agreements: int) -> pd.DataFrame:
    """The same audit with so many agreements picked; what was picked stays picked, strata stay as they were."""
    size = audit["stratum"].value_counts().reindex(STRATA, fill_value=0)
    few = min(agreements // 2, size[STRATA[2]])
    rest = min(agreements - few, size[STRATA[3]])
    few = min(agreements - rest, size[STRATA[2]])
    quota = audit["stratum"].map({STRATA[0]: 0, STRATA[1]: size[STRATA[1]], STRATA[2]: few, STRATA[3]: rest})
    return audit.assign(picked=audit["order"].lt(quota.astype(int)) | audit.get("picked", False))


def audit_plan(
    audit: pd.DataFrame,
    *,
    agreements: Sequence[int] = (50, 100, 200, 400),
    right: Mapping[str, float] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """What an audit costs and buys, before anyone looks: `agreements`, `pictures` to review, `width` in points.

    Args:
        audit: as from `draw_audit`.
        agreements: sample sizes to compare.
        right: expected share of right predictions in each stratum; by default ½ of disagreements, 0.9 of suspicious
            and 0.99 of other agreements, 0.9 of those reviewed before.
        level: of the interval.
        seed: of its draws.
    """
    guess = dict(zip(STRATA, (0.9, 0.5, 0.9, 0.99), strict=True)) | dict(right or {})
    rows = []
    for n in agreements:
        larger = enlarge_audit(audit.drop(columns="picked"), agreements=n)
        size = larger["stratum"].value_counts().reindex(STRATA, fill_value=0).to_numpy(float)
        seen = larger.groupby("stratum")["picked"].sum().reindex(STRATA, fill_value=0).to_numpy(float)
        seen[0] = size[0]
        share = np.array([guess[name] for name in STRATA])
        low, high = np.quantile(_stratified_draws(size, seen * share, seen, seed=seed), _tails(level))
        rows.append((int(seen[2:].sum()), int(seen[1:].sum()), 100 * (high - low)))
    return pd.DataFrame(rows, columns=["agreements", "pictures", "width"])


def _stratified_draws(
    size: np.ndarray, hits: np.ndarray, seen: np.ndarray, *, draws: int = 4000, seed: int = 0
) -> np.ndarray:
    """(draws,) overall shares: strata counts by Bayesian bootstrap, shares from Beta(½ + hits, ½ + misses)."""
    rng = np.random.default_rng(seed)
    some = size > 0
    weight = rng.dirichlet(size[some], draws) if some.any() else np.zeros((draws, 0))
    share = rng.beta(hits[some] + 0.5, np.maximum(seen - hits, 0)[some] + 0.5, (draws, some.sum()))
    return (weight * share).sum(axis=1)


def audited_share(
    outcome: Sequence[float],
    audit: pd.DataFrame,
    *,
    among: Sequence[bool] | None = None,
    groups: Sequence[int] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, float | int | str]:
    """Share of rows with an outcome, Σ_s w_s · (share among the audited rows of stratum s), and its interval.

    Only picked rows and those reviewed before the draw count: anything looked at besides would bias the sample.

    Args:
        outcome: (N,) 1 or 0 where known, NaN where not.
        audit: as from `draw_audit`, in the same order.
        among: (N,) rows that the share is about, by something known of all rows, such as their predicted label.
        groups: (N,) near-duplicate group of each row.
        level: of the interval, which is about images like these, not only these.
        seed: of its draws.

    Returns:
        `value`, `low`, `high`, `audited` and `images` (rows), `note`, a sentence where the audit is incomplete.
    """
    outcome = np.asarray(outcome, dtype=float)
    if len(outcome) != len(audit):
        raise ValueError(f"Expected one outcome a row of the audit: {len(audit)}. Received: {len(outcome)}.")
    among = np.ones(len(outcome), bool) if among is None else np.asarray(among, dtype=bool)
    due = among & (audit["picked"] | audit["stratum"].eq(STRATA[0])).to_numpy()
    known = due & np.isfinite(outcome)
    members = _group_codes(groups, len(outcome))
    rho = group_correlation(outcome[known], members[known])
    size, hits, seen = np.zeros((3, len(STRATA)))
    shares = np.full(len(STRATA), np.nan)
    for s, name in enumerate(STRATA):
        rows = among & audit["stratum"].eq(name).to_numpy()
        here = rows & known
        size[s] = rows.sum()
        seen[s] = effective_count(members[here], int(here.sum()), correlation=rho)
        shares[s] = outcome[here].mean() if here.any() else np.nan
        hits[s] = np.nan_to_num(shares[s]) * seen[s]
    blind = [name for name, n, k in zip(STRATA, size, seen, strict=True) if n and not k]
    shrink = effective_count(members[among], int(among.sum()), correlation=rho) / max(among.sum(), 1)
    low, high = np.quantile(_stratified_draws(size * shrink, hits, seen, seed=seed), _tails(level))
    value = np.nan if blind or not among.any() else float(np.nansum(size * np.nan_to_num(shares)) / size.sum())
    notes = [f"{(due & ~known).sum():,} picked images are not reviewed yet."] if (due & ~known).any() else []
    notes += [f"No image was audited in: {', '.join(blind)}."] if blind else []
    return {
        "value": value, "low": float(low), "high": float(high), "audited": int(known.sum()),
        "images": int(among.sum()), "note": " ".join(notes),
    }  # fmt: skip


def audited_accuracy(
    truth: Sequence[str | None],
    predicted: Sequence[str],
    audit: pd.DataFrame,
    *,
    groups: Sequence[int] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, float | int | str]:
    """Accuracy against the truth, from an audited sample of noisily labelled rows.

    Args:
        truth: (N,) class that a reviewer gave; None or NaN where nobody looked or could tell.
        predicted: (N,) predicted labels.
        audit: as from `draw_audit`, in the same order.
        groups: (N,) near-duplicate group of each row.
        level: of the interval.
        seed: of its draws.

    Returns:
        As `audited_share`.
    """
    return audited_share(_same(truth, predicted), audit, groups=groups, level=level, seed=seed)


def _same(truth: Sequence[str | None], labels: Sequence[str]) -> np.ndarray:
    """1.0 where both agree, 0.0 where not, NaN where the truth is unknown."""
    truth = np.asarray(truth, dtype=object)
    return np.where(pd.isna(truth), np.nan, (truth == np.asarray(labels, dtype=object)).astype(float))


def audited_label_errors(
    truth: Sequence[str | None],
    labels: Sequence[str],
    audit: pd.DataFrame,
    *,
    class_names: Sequence[str],
    groups: Sequence[int] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Share of wrong labels: over all, of each class, and of each pair seen; arguments as in `audited_accuracy`.

    Returns:
        One row a share: `label` ("" for all), `truth` ("" for any other class), and the columns of `audited_share`.
    """
    labels, truth = np.asarray(labels, dtype=object), np.asarray(truth, dtype=object)
    wrong = 1 - _same(truth, labels)
    kinds = [("", "", wrong, None)]
    kinds += [(name, "", wrong, labels == name) for name in class_names]
    pairs = sorted({(a, b) for a, b in zip(labels[wrong == 1], truth[wrong == 1], strict=True)})
    kinds += [(a, b, np.where(np.isnan(wrong), np.nan, truth == b), labels == a) for a, b in pairs]
    return pd.DataFrame([
        {"label": a, "truth": b} | audited_share(outcome, audit, among=rows, groups=groups, level=level, seed=seed)
        for a, b, outcome, rows in kinds
    ])  # fmt: skip


def audited_confusion(
    truth: Sequence[str | None],
    predicted: Sequence[str],
    audit: pd.DataFrame,
    *,
    class_names: Sequence[str],
    groups: Sequence[int] | None = None,
    level: float = 0.95,
) -> tuple[np.ndarray, np.ndarray]:
    """Estimated confusion matrix against the truth: (K, K) numbers of images, and (K, K, 2) intervals of row shares.

    Each audited row stands for the rows of its stratum and predicted label that it was drawn from; intervals are
    Jeffreys' on Kish's effective count. Arguments as in `audited_accuracy`.
    """
    truth = np.asarray(truth, dtype=object)
    counts = (audit["picked"] | audit["stratum"].eq(STRATA[0])).to_numpy() & ~pd.isna(truth)
    weight = _audit_weights(audit["stratum"].to_numpy(), np.asarray(predicted, dtype=object), counts)
    rows, columns = _codes(truth[counts], class_names), _codes(np.asarray(predicted, dtype=object)[counts], class_names)
    members = _group_codes(groups, len(truth))[counts]
    k = len(class_names)
    matrix = np.bincount(rows * k + columns, weights=weight, minlength=k * k).reshape(k, k)
    rho = group_correlation(rows == columns, members)
    worth = np.zeros(k)
    for i in range(k):
        w = weight[rows == i]
        alike = effective_count(members[rows == i], len(w), correlation=rho) / max(len(w), 1)
        worth[i] = alike * w.sum() ** 2 / (w**2).sum() if len(w) else 0
    return matrix, confusion_intervals(matrix, support=worth, level=level)


def _audit_weights(stratum: np.ndarray, predicted: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(n,) how many rows each counted row stands for; strata sum to their size as far as any of them was counted."""
    cells = pd.DataFrame({"stratum": stratum, "predicted": predicted, "counted": counts})
    cell, whole = cells.groupby(["stratum", "predicted"])["counted"], cells.groupby("stratum")["counted"]
    weight = (cell.transform("size") / cell.transform("sum").clip(lower=1)).where(cells["counted"], 0)
    covered = weight.groupby(cells["stratum"]).transform("sum").clip(lower=TINY)
    return (weight * whole.transform("size") / covered).to_numpy()[counts]


# ── Incarnations: past confusion matrices ───────────────────────────────────────────────────────


def save_incarnation(
    path: Path,
    matrix: np.ndarray,
    *,
    class_names: Sequence[str],
    name: str,
    date: str,
    data: str,
    interval: tuple[float, float] | None = None,
) -> None:
    """Keep a confusion matrix of counts with its accuracy as JSON beside its picture.

    Args:
        path: of the file, replaced whole.
        matrix: (K, K) counts.
        class_names: of rows and columns.
        name: of the run.
        date: ISO date of the run.
        data: fingerprint of the data.
        interval: low and high of the accuracy.
    """
    matrix = np.asarray(matrix)
    record = {
        "name": name, "date": date, "data": data, "accuracy": float(np.trace(matrix) / max(matrix.sum(), 1)),
        "interval": None if interval is None else [float(bound) for bound in interval],
        "images": int(matrix.sum()), "class_names": list(class_names), "counts": matrix.tolist(),
    }  # fmt: skip
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


def read_incarnations(paths: Sequence[Path]) -> pd.DataFrame:
    """Saved confusion matrices, oldest first: `name`, `date`, `data`, `accuracy`, `low`, `high`, `images`, `matrix`.

    `matrix` holds counts, or shares of rows for published figures, whose `images` is 0.
    """
    rows = []
    for path in paths:
        text = json.loads(Path(path).read_text(encoding="utf-8"))
        for record in text.get("matrices", [text]):
            low, high = record.get("interval") or (np.nan, np.nan)
            rows.append({
                "name": record["name"], "date": record.get("date", ""), "data": record.get("data", ""),
                "accuracy": record["accuracy"], "low": low, "high": high, "images": record.get("images", 0),
                "class_names": record.get("class_names", text.get("class_names")),
                "matrix": np.array(record["counts"] if "counts" in record else record["shares"]),
            })  # fmt: skip
    columns = ["name", "date", "data", "accuracy", "low", "high", "images", "class_names", "matrix"]
    return pd.DataFrame(rows, columns=columns).sort_values("date", kind="stable", ignore_index=True)
