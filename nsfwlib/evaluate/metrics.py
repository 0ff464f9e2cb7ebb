"""How good is the classifier, and how sure are we of it? Scores over labels and `pred_probs`, with intervals.

Near-duplicate images are not independent witnesses: wherever `groups` is taken, intervals allow for them.
Shares (accuracy, recall, cells of a confusion matrix) have Jeffreys intervals on an effective count, since a
bootstrap calls an empty cell certain; everything else is bootstrapped by group.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.sparse import csr_array, vstack
from scipy.stats import binom, norm
from sklearn.metrics import average_precision_score, roc_auc_score

from nsfwlib.evaluate.confusion import class_codes
from nsfwlib.evaluate.intervals import bootstrap_weights, effective_count, group_correlation, share_interval, tails
from nsfwlib.labels import check_probs, group_codes

TINY = 1e-12  # probabilities are kept this far from 0 before a logarithm
RANKINGS = ("average precision", "AUROC")
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
    TP / (TP + FP + FN), of which it is a rising function); balanced accuracy averages draws from the recalls; all
    others have Bayesian bootstrap intervals by group, towards the bad with one more group that is ranked last, wrong,
    or as bad as the worst; that of the calibration error allows for its bias: the gaps of 15 equal-width bins (Guo et
    al., On Calibration of Modern Neural Networks, 2017) err upwards on few images.

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
    truth, top, rows = np.eye(k)[codes], probs.argmax(1), np.arange(n)
    losses = np.stack([-np.log(np.clip(probs[rows, codes], TINY, 1)), ((probs - truth) ** 2).sum(1)])
    confidence, which = confidence_bins(probs, 15)
    gaps = csr_array(((top == codes) - confidence, (which, rows)), shape=(15, n))
    right = csr_array((2.0 * (top == codes), (codes, rows)), shape=(k, n))
    named = csr_array((np.ones(2 * n), (np.r_[codes, top], np.r_[rows, rows])), shape=(k, n))  # labels and answers
    sums = vstack([csr_array(losses), right, named, gaps]).astype(np.float32)  # BLAS is 100 times slower on this shape
    present = [c for c in range(k) if 0 < truth[:, c].sum() < n]
    curves = [_ThresholdBins(truth[:, c] > 0, probs[:, c]) for c in present]
    one_more = (np.bincount(members).astype(float) ** 2).sum() / n
    pairs, chance = [], []  # of scores for their low and high ends, of gaps
    for weight in bootstrap_weights(members, draws, rng):
        extra, total = one_more * rng.standard_exponential(weight.shape[1]), weight.sum(axis=0)
        means, ranks = sums @ weight / total, [curve.ranking(weight, extra) for curve in curves]
        macro = [_macro_f1(means[2 : 2 + 2 * k], more) for more in (2 * extra / total / k, 0)]
        loss = means[:2], (means[:2] * total + extra * losses.max(axis=1)[:, None]) / (total + extra)
        pairs.append([np.vstack([loss[i], macro[i], *(rank[i] for rank in ranks)]) for i in range(2)])
        chance.append(means[-15:])
    error, *span = _calibration_interval(gaps.sum(axis=1) / n, np.hstack(chance), level)
    low, high = (
        np.quantile(np.hstack(part), end, axis=1)
        for part, end in zip(zip(*pairs, strict=True), tails(level), strict=True)
    )
    ranks = [rank(truth[:, c], probs[:, c]) for c in present for rank in (average_precision_score, roc_auc_score)]
    values = [*losses.mean(axis=1), _macro_f1(sums.sum(axis=1)[2 : 2 + 2 * k], 0), *ranks]
    kinds = [("log-loss", ""), ("Brier score", ""), ("macro F1", "")]
    kinds += [(name, class_names[c]) for c in present for name in RANKINGS]
    table = pd.DataFrame(
        {"value": values, "low": low, "high": np.maximum(high, values)}, pd.MultiIndex.from_tuples(kinds)
    )
    table.loc[("calibration error", ""), :] = error, *span
    kinds += [("calibration error", ""), *((name, other) for other in class_names for name in RANKINGS)]
    table = table.reindex(list(dict.fromkeys(kinds))).fillna({"low": 0.0, "high": 1.0})
    support = dict(zip(["", *class_names], [n, *truth.sum(axis=0).astype(int)], strict=True))
    table = table.rename_axis(["score", "class"]).reset_index()
    return table.assign(support=table["class"].map(support))


def _macro_f1(counts: np.ndarray, more: np.ndarray | float) -> np.ndarray:
    """Mean F1 of the classes that occur, of twice their hits (K, …) and, below, their labels and answers (K, …).

    `more` labels or answers without a hit a class keep an interval off 1 where nothing was wrong.
    """
    hits, named = np.split(np.asarray(counts, dtype=float), 2)
    seen = named.reshape(len(named), -1).any(axis=1)
    return (hits[seen] / (named[seen] + more)).mean(axis=0)


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

    def ranking(self, weight: np.ndarray, extra: np.ndarray) -> np.ndarray:
        """(2, 2, B) RANKINGS under row weights (N, B), first with one more positive of weight extra (B,) ranked last.

        Rows ranked last are rare and decide how bad it can get: without one more, the interval misses them.
        """
        rows, hits = ((part @ weight).astype(np.float64) for part in (self.all, self.positive))
        total, found = rows.cumsum(axis=0), hits.cumsum(axis=0)
        last = extra * (found[-1] + extra) / (total[-1] + extra)
        precision = (hits * found / total).sum(axis=0)
        passed, negatives = total - found, total[-1] - found[-1]  # a hit outranks those not passed, half of its equals
        wins = (hits * (negatives - passed + (rows - hits) / 2)).sum(axis=0) / negatives
        more = np.stack([precision + last, wins]) / (found[-1] + extra)
        return np.stack([more, np.stack([precision, wins]) / found[-1]])


def confidence_bins(probs: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Confidence (N,) of the top class and the number of its equal-width bin, upper edge included."""
    confidence = probs.max(axis=1, initial=0)
    return confidence, np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)


def log_losses(labels: Sequence[str], pred_probs: np.ndarray, *, class_names: Sequence[str]) -> np.ndarray:
    """(N,) log-loss of each row."""
    codes = class_codes(labels, class_names)
    return -np.log(np.clip(np.asarray(pred_probs, dtype=float)[np.arange(len(codes)), codes], TINY, None))


def compare(
    right: Sequence[bool],
    baseline_right: Sequence[bool],
    *,
    groups: Sequence[int] | None = None,
    weights: Sequence[float] | None = None,
    level: float = 0.95,
) -> dict[str, float | int | str]:
    """Paired difference of two models on the same rows, in accuracy or in any other mean.

    Interval: of accuracy adjusted Wald by Agresti and Min (Simple improved confidence intervals for comparing matched
    proportions, 2005) on an effective count, of other means Wald from the spread between groups. Test: were the models
    equal, each near-duplicate group's difference could as well have the other sign; p is the exact share of such sign
    flips whose sum is as far from 0 (of single images, McNemar's test).

    Args:
        right: (N,) bool, or numbers of which higher is better, such as −`log_losses`; these have no p.
        baseline_right: the same of the other model.
        groups: (N,) near-duplicate group of each row.
        weights: (N,) above 0, what each audited row stands for.
        level: of the interval.

    Returns:
        `accuracy`, `baseline`, `difference`, `low`, `high`, `better` and `worse` (groups), `p`, `images`, `sentence`.
    """
    counted = np.asarray(right).dtype == bool
    right, other = np.asarray(right, dtype=float), np.asarray(baseline_right, dtype=float)
    if right.shape != other.shape or not len(right):
        raise ValueError(f"Expected the same rows, at least one. Received: {len(right)} and {len(other)} answers.")
    members, weight = group_codes(groups, len(right)), np.ones(len(right)) if weights is None else np.asarray(weights)
    steps = right - other
    one, two, step = (np.average(part, weights=weight) for part in (right, other, steps))
    sums, z, p = np.bincount(members, weights=steps), norm.ppf((1 + level) / 2), np.nan
    if counted:
        worth = effective_count(members, len(steps), correlation=group_correlation(steps, members), weights=weight)
        squares = worth * np.average(steps**2, weights=weight) + 1
        centre = worth * step / (worth + 2)
        half = z * np.sqrt(squares - centre**2 * (worth + 2)) / (worth + 2)
        p = _sign_flips(np.rint(sums).astype(int))
    else:
        centre = step
        half = z * np.linalg.norm(np.bincount(members, weights=weight * (steps - step))) / weight.sum()
    low, high = (np.clip(end, -1, 1) if counted else end for end in (centre - half, centre + half))
    sentence = (
        f"Accuracy {one:.1%} against {two:.1%}: a difference of {100 * step:+.1f} points ({100 * low:+.1f} to "
        f"{100 * high:+.1f}), p = {p:.2g}."
        if counted
        else f"{abs(one):.3f} against {abs(two):.3f}: better by {step:+.3f} ({low:+.3f} to {high:+.3f})."
    )
    return {
        "accuracy": one, "baseline": two, "difference": step, "low": low, "high": high, "better": int((sums > 0).sum()),
        "worse": int((sums < 0).sum()), "p": p, "images": len(right), "sentence": sentence,
    }  # fmt: skip


def _sign_flips(sums: np.ndarray) -> float:
    """Share of all sign flips of whole numbers (G,) whose sum is at least as far from 0 as theirs."""
    chance = np.ones(1)  # of each number of points taken with a plus
    for size, count in zip(*np.unique(np.abs(sums[sums != 0]), return_counts=True), strict=True):
        plus = np.zeros(size * count + 1)
        plus[::size] = binom.pmf(np.arange(count + 1), count, 0.5)
        chance = np.convolve(chance, plus)
    flipped = 2 * np.arange(len(chance)) - (len(chance) - 1)
    return float(min(chance[np.abs(flipped) >= abs(sums.sum())].sum(), 1.0))
