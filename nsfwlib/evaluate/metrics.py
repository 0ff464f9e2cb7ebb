"""How good is the classifier, and how sure are we of it? Scores over labels and `pred_probs`, with intervals.

Near-duplicate images are not independent witnesses: wherever `groups` is taken, intervals allow for them.
Shares (accuracy, recall, cells of a confusion matrix) have Jeffreys intervals on an effective count, since a
bootstrap calls an empty cell certain; everything else is bootstrapped by group.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.sparse import csr_array, vstack
from scipy.special import log_softmax
from scipy.stats import binomtest, norm
from sklearn.metrics import average_precision_score

from nsfwlib.evaluate.confusion import class_codes
from nsfwlib.evaluate.intervals import bootstrap_weights, effective_count, group_correlation, share_interval, tails
from nsfwlib.labels import check_probs, group_codes

TINY = 1e-12  # probabilities are kept this far from 0 before a logarithm
MOST_THRESHOLDS = 2048  # bootstrapped curves use at most so many distinct thresholds


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
    of average precision with one more group ranked last, that of the calibration error allowing for its bias: the
    gaps of 15 equal-width bins (Guo et al., On Calibration of Modern Neural Networks, 2017) err upwards on few images.

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
    codes = class_codes(labels, class_names)
    probs = check_probs(pred_probs, len(codes), len(class_names))
    members = group_codes(groups, len(codes))
    rng = np.random.default_rng(seed)
    shares = _share_scores(codes, probs.argmax(axis=1), class_names, members, level)
    recalls = shares[shares["score"].eq("recall")]
    parts = [shares, pd.DataFrame([_balanced_accuracy(recalls, level, draws, rng)])]
    parts += [_bootstrapped_scores(codes, probs, class_names, members, level, draws, rng)] if len(codes) else []
    table = pd.concat(parts, ignore_index=True)
    table["note"] = np.where(table["value"].isna(), "no image to measure it on", "")
    return table[["score", "class", "value", "low", "high", "support", "note"]]


def _share_scores(
    codes: np.ndarray, top: np.ndarray, class_names: Sequence[str], members: np.ndarray, level: float
) -> pd.DataFrame:
    """Accuracy and each class's recall, precision and F1, with Jeffreys intervals on effective counts."""
    kinds = [("accuracy", "", np.ones(len(codes), bool))]
    for k, name in enumerate(class_names):
        label, guess = codes == k, top == k
        kinds += [("recall", name, label), ("precision", name, guess), ("f1", name, label | guess)]
    table = pd.DataFrame([kind[:2] for kind in kinds], columns=["score", "class"])
    found = share_interval(codes == top, members, among=[among for *_, among in kinds], level=level)
    shares = np.stack(found[:3], axis=1)
    shares = np.where(table[["score"]].eq("f1"), 2 * shares / (1 + shares), shares)
    table[["value", "low", "high"]] = shares
    return table.assign(support=found.rows, worth=found.worth)


def _balanced_accuracy(recalls: pd.DataFrame, level: float, draws: int, rng: np.random.Generator) -> dict:
    """Mean recall of the classes that have images; its interval from the recalls' Beta distributions."""
    seen = recalls[recalls["support"] > 0]
    row = {"score": "balanced accuracy", "class": "", "support": int(seen["support"].sum())}
    if seen.empty:
        return row | {"value": np.nan, "low": 0.0, "high": 1.0}
    hits = (seen["value"] * seen["worth"]).to_numpy()
    misses = seen["worth"].to_numpy() - hits
    low, high = np.quantile(
        rng.beta(hits + 0.5, misses + 0.5, (max(draws, 4000), len(seen))).mean(axis=1), tails(level)
    )
    value = seen["value"].mean()  # at 0 and 1 outside the middle of its distribution
    return row | {"value": value, "low": min(low, value), "high": max(high, value)}


def _bootstrapped_scores(
    codes: np.ndarray,
    probs: np.ndarray,
    class_names: Sequence[str],
    members: np.ndarray,
    level: float,
    draws: int,
    rng: np.random.Generator,
) -> pd.DataFrame:
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
    for weight in bootstrap_weights(members, draws, rng):
        extra = one_more * rng.standard_exponential(weight.shape[1])
        means = sums @ weight / weight.sum(axis=0)
        replicates.append(np.vstack([means, *(curve.average_precision(weight, extra) for curve in curves)]))
    replicates = np.hstack(replicates)
    error, *span = _calibration_interval(gaps.sum(axis=1) / n, replicates[2:17], level)
    low, high = np.quantile(np.delete(replicates, np.s_[2:17], axis=0), tails(level), axis=1)
    low, high = np.insert(low, 2, span[0]), np.insert(high, 2, span[1])
    values = [*losses.mean(axis=0), error] + [average_precision_score(truth[:, c], probs[:, c]) for c in present]
    high = np.maximum(high, values)  # one more group ranked last may push the high end below what was measured
    ranked = [*present, *(c for c in range(k) if c not in present)]
    return pd.DataFrame({
        "score": ["log-loss", "Brier score", "calibration error"] + ["average precision"] * k,
        "class": ["", "", "", *(class_names[c] for c in ranked)],
        "value": [*values, *[np.nan] * (k - len(present))],
        "low": [*low, *[0.0] * (k - len(present))],
        "high": [*high, *[1.0] * (k - len(present))],
        "support": [n] * 3 + [int(truth[:, c].sum()) for c in ranked],
    })  # fmt: skip


def _calibration_interval(gap: np.ndarray, replicates: np.ndarray, level: float) -> tuple[float, float, float]:
    """Calibration error of the gaps (bins,) and its interval, given their bootstrap replicates (bins, draws).

    Chance only ever raises the error. Its low end is therefore that of the smallest multiple of the gaps from which
    chance could have raised it to what is seen; the bootstrap's own quantile is high enough for the high end.
    """
    error = np.abs(gap).sum()
    chance = replicates - gap[:, None]
    shrunk = np.linspace(0, 1, 41)
    reach = [np.quantile(np.abs(part * gap[:, None] + chance).sum(axis=0), tails(level)[1]) for part in shrunk]
    low = error * shrunk[np.argmax(np.array(reach) >= error)]
    return float(error), float(low), float(max(reach[-1], error))


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
    codes = class_codes(labels, class_names)
    probs = check_probs(pred_probs, len(codes), len(class_names))
    confidence, which = _confidence_bins(probs, bins)
    right = probs.argmax(axis=1) == codes
    found = share_interval(right, groups, among=[which == b for b in range(bins)], level=level)
    edges = np.linspace(0, 1, bins + 1)
    table = pd.DataFrame({"low_edge": edges[:-1], "high_edge": edges[1:], "count": found.rows})
    total = np.bincount(which, weights=confidence, minlength=bins)
    table["confidence"] = total / np.where(found.rows > 0, found.rows, np.nan)
    return table.assign(accuracy=found.value, low=found.low, high=found.high)


def fit_temperature(labels: Sequence[str], log_probs: np.ndarray, *, class_names: Sequence[str]) -> float:
    """Temperature T > 0 that minimises the log-loss of softmax(log_probs / T); fit it on validation rows.

    Args:
        labels: (N,) class of each row.
        log_probs: (N, K) logits, or logarithms of probabilities: softmax does not see the difference.
        class_names: of the columns.

    Returns:
        T, between 0.05 and 20; above 1 the model was over-confident. Dividing never changes the top class.
    """
    codes = class_codes(labels, class_names)
    logits = check_probs(log_probs, len(codes), len(class_names))
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


def _confidence_bins(probs: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Confidence (N,) of the top class and the number of its equal-width bin, upper edge included."""
    confidence = probs.max(axis=1, initial=0)
    return confidence, np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)


def compare(
    right: Sequence[bool], baseline_right: Sequence[bool], *, groups: Sequence[int] | None = None, level: float = 0.95
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
    members = group_codes(groups, len(right))
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
