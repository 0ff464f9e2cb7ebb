"""How good is the classifier, how honest are its probabilities, and how sure are we? Scores with intervals."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from scipy.stats import binom, norm
from sklearn.metrics import average_precision_score, roc_auc_score

from nsfwlib.evaluate.confusion import class_codes
from nsfwlib.evaluate.intervals import TAILS, TINY, Groups, Names, Weights, jeffreys, mean_scores, share_interval, weigh
from nsfwlib.labels import check_probs, group_codes

BINS = 15  # of equal width, of confidence


def scores(
    labels: Names, pred_probs: np.ndarray, *, class_names: Names, groups: Groups = None, seed: int = 0
) -> pd.DataFrame:
    """All scores with their 95 % intervals.

    Accuracy, recall, precision and F1 have Jeffreys intervals on effective counts, since a bootstrap calls an empty
    cell certain (F1 through the share TP / (TP + FP + FN), of which it is a rising function). So has average precision,
    as a share of the class's images (Boyd, Eng and Page, Area under the Precision-Recall Curve: Point Estimates and
    Confidence Intervals, 2013), and AUROC, as one of the rarer side's (no larger variance is possible: Birnbaum and
    Klose, Bounds for the Variance of the Mann-Whitney Statistic, 1957). The others have those of `weigh`; that of the
    calibration error allows for its bias: the gaps of 15 equal-width bins (Guo et al., On Calibration of Modern Neural
    Networks, 2017) err upwards on few images.

    `labels` are the class of each row (N,), `pred_probs` its probabilities (N, K), columns those of `class_names`.
    One row a score comes: `score`, `class` ("" for all), `value`, `low`, `high`, `support` (images), `note`.
    """
    codes = class_codes(labels, class_names)
    probs = check_probs(pred_probs, len(codes), len(class_names))
    top, members = probs.argmax(axis=1), group_codes(groups, len(codes))
    options = {"strata": np.zeros(len(codes)), "groups": members, "draws": 1000, "seed": seed}
    parts = {("accuracy", ""): np.ones(len(codes), bool)}
    for k, name in enumerate(class_names):
        label, guess = codes == k, top == k
        parts |= {("recall", name): label, ("precision", name): guess, ("f1", name): label | guess}
    found = share_interval(codes == top, members, among=parts.values())
    shares = pd.DataFrame(list(parts), columns=["score", "class"]).assign(support=found.rows)
    values = np.stack(found[:3], axis=1)
    shares[["value", "low", "high"]] = np.where(shares[["score"]].eq("f1"), 2 * values / (1 + values), values)
    means = mean_scores(np.eye(len(class_names))[codes], probs, **options)
    error = pd.DataFrame([_calibration_error(codes == top, probs, **options)])
    of_all = pd.concat([means, error]).assign(**{"class": "", "support": len(codes)})
    table = pd.concat([shares, of_all, _ranking_scores(codes, probs, class_names, members)], ignore_index=True)
    table["note"] = np.where(table["value"].isna(), "no image to measure it on", "")
    return table[["score", "class", "value", "low", "high", "support", "note"]]


def _ranking_scores(codes: np.ndarray, probs: np.ndarray, names: Names, members: np.ndarray) -> pd.DataFrame:
    """Average precision and AUROC of each class, with Jeffreys intervals on the effective counts of its sides."""
    rows = []
    for k, name in enumerate(names):
        worth = share_interval(probs[:, k], members, among=(codes == k, codes != k)).worth
        ranks = ("average precision", average_precision_score, worth[0]), ("AUROC", roc_auc_score, min(worth))
        for score, rank, n in ranks:
            value = rank(codes == k, probs[:, k]) if min(worth) else np.nan
            ends = jeffreys(value * n, n) if min(worth) else (0.0, 1.0)
            rows.append((score, name, value, *ends, (codes == k).sum()))
    return pd.DataFrame(rows, columns=["score", "class", "value", "low", "high", "support"])


def _calibration_error(right: np.ndarray, probs: np.ndarray, **options: Any) -> dict[str, Any]:
    """The calibration error, which chance only raises: `low` is of the least multiple of gaps that could give it."""
    confidence, which = confidence_bins(probs)
    found = weigh(np.eye(BINS)[which] * (right - confidence)[:, None], bounds=(-1, 1), **options)
    gap, error, shrunk = found.mean[:, None], np.abs(found.mean).sum(), np.linspace(0, 1, 41)
    reach = [np.quantile(np.abs(found.plain - (1 - part) * gap).sum(axis=0), TAILS[1]) for part in shrunk]
    low, high = error * shrunk[np.argmax(np.array(reach) >= error)], max(reach[-1], error)
    return {"score": "calibration error", "value": error, "low": low, "high": high}


def confidence_bins(probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Confidence (N,) of the top class and the number of its equal-width bin, upper edge included."""
    confidence = probs.max(axis=1, initial=0)
    return confidence, np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)


def log_losses(labels: Names, pred_probs: np.ndarray, *, class_names: Names) -> np.ndarray:
    """(N,) log-loss of each row."""
    codes = class_codes(labels, class_names)
    return -np.log(np.clip(np.asarray(pred_probs, dtype=float)[np.arange(len(codes)), codes], TINY, None))


def calibration_table(
    labels: Names, pred_probs: np.ndarray, *, class_names: Names, groups: Groups = None, weights: Weights = None
) -> pd.DataFrame:
    """Confidence against accuracy, one row for each of 15 bins; `groups` and `weights` as in `share_interval`.

    Columns: `low_edge`, `high_edge`, `count`, `confidence`, `accuracy` with `low` and `high`; NaN without an image.
    """
    codes = class_codes(labels, class_names)
    probs = check_probs(pred_probs, len(codes), len(class_names))
    confidence, which = confidence_bins(probs)
    edges, options = np.linspace(0, 1, BINS + 1), {"among": [which == b for b in range(BINS)], "weights": weights}
    sure, found = (share_interval(some, groups, **options) for some in (confidence, probs.argmax(axis=1) == codes))
    table = pd.DataFrame({"low_edge": edges[:-1], "high_edge": edges[1:], "count": found.rows})
    return table.assign(confidence=sure.value, accuracy=found.value, low=found.low, high=found.high)


def fit_temperature(
    labels: Names,
    log_probs: np.ndarray,
    *,
    class_names: Names,
    weights: Weights = None,
    noise: np.ndarray | None = None,
    groups: Groups = None,
) -> float:
    """Temperature T > 0 that minimises the log-loss of softmax(log_probs / T); fit it on validation rows.

    Wrong labels ask for doubt that the truth does not. With `noise` they are explained by it (forward correction:
    Patrini et al., Making Deep Neural Networks Robust to Label Noise, 2017); since it is itself estimated, and the
    model's own errors pass for noise, T is that nearest to 1 between the fits with and without it.
    It is between 0.05 and 20; above 1 the model was over-confident; 1 where the interval of what it gains in
    log-loss does not lie above 0, with the noise and without.

    Args, `groups` and `weights` as in `share_interval`:
        labels: (N,) class of each row: audited where there are enough, else as they are.
        log_probs: (N, K) logits, or logarithms of probabilities: softmax does not see the difference.
        noise: (K, K) how many rows of each label (rows) truly belong to each class, as from `labels.noise_matrix`.
    """
    logs = log_softmax(check_probs(log_probs, len(labels), len(class_names)), axis=1)
    if not len(labels):
        raise ValueError("Expected validation rows to fit a temperature on. Received: none; keep T = 1.")
    weight = np.ones(len(labels)) if weights is None else np.asarray(weights, dtype=float)
    mixings = [np.eye(len(class_names))]  # (K, K) chance of each label (columns) given the true class (rows)
    if noise is not None:
        counts = np.asarray(noise, dtype=float).T
        total = counts.sum(axis=1, keepdims=True)  # classes never seen keep their own
        mixings.append(np.where(total > 0, counts / np.where(total > 0, total, 1), mixings[0]))

    def losses(log_t: float, mixing: np.ndarray) -> np.ndarray:
        return log_losses(labels, apply_temperature(np.exp(logs), np.exp(log_t)) @ mixing, class_names=class_names)

    search = {"bounds": np.log([0.05, 20]), "method": "bounded"}
    found = [minimize_scalar(lambda log_t, m=m: weight @ losses(log_t, m), **search).x for m in mixings]
    chosen = np.clip(0.0, min(found), max(found))
    rows = {"groups": groups, "weights": weight}
    gains = [compare(-losses(chosen, mixing), -losses(0.0, mixing), **rows)["low"] for mixing in mixings]
    return float(np.exp(chosen)) if min(gains) > 0 else 1.0


def apply_temperature(pred_probs: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities (N, K) after dividing their logarithms by the temperature; the top class stays."""
    logs = np.log(np.clip(np.asarray(pred_probs, dtype=float), TINY, None))
    return np.exp(log_softmax(logs / temperature, axis=1))


def compare(
    right: Sequence[bool], baseline_right: Sequence[bool], *, groups: Groups = None, weights: Weights = None
) -> dict[str, float | int | str]:
    """Paired difference of two models on the same rows, in accuracy or in any other mean, with its 95 % interval.

    Interval: of accuracy adjusted Wald by Agresti and Min (Simple improved confidence intervals for comparing matched
    proportions, 2005) on an effective count, of other means Wald from the spread between groups. Test: were the models
    equal, each near-duplicate group's difference could as well have the other sign; p is the exact share of such sign
    flips whose sum is as far from 0 (of single images, McNemar's test).

    `right` is (N,) bool, or numbers of which higher is better, such as −`log_losses`; these have no p. Keys:
    `accuracy`, `baseline`, `difference`, `low`, `high`, `better` and `worse` (groups), `p`, `images`, `sentence`.
    """
    counted = np.asarray(right).dtype == bool
    right, other = np.asarray(right, dtype=float), np.asarray(baseline_right, dtype=float)
    if right.shape != other.shape or not len(right):
        raise ValueError(f"Expected the same rows, at least one. Received: {len(right)} and {len(other)} answers.")
    members, weight = group_codes(groups, len(right)), np.ones(len(right)) if weights is None else np.asarray(weights)
    steps = right - other
    one, two, step = (np.average(part, weights=weight) for part in (right, other, steps))
    sums, z = np.bincount(members, weights=steps), norm.ppf(TAILS[1])
    if counted:
        worth = share_interval(steps, members, weights=weight).worth
        squares = worth * np.average(steps**2, weights=weight) + 1
        centre = worth * step / (worth + 2)
        half = z * np.sqrt(squares - centre**2 * (worth + 2)) / (worth + 2)
        low, high, p = max(centre - half, -1), min(centre + half, 1), _sign_flips(np.rint(sums).astype(int))
        points = f"{100 * step:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"
        sentence = f"Accuracy {one:.1%} against {two:.1%}: a difference of {points}, p = {p:.2g}."
    else:
        half = z * np.linalg.norm(np.bincount(members, weights=weight * (steps - step))) / weight.sum()
        low, high, p = step - half, step + half, np.nan
        sentence = f"{abs(one):.3f} against {abs(two):.3f}: better by {step:+.3f} ({low:+.3f} to {high:+.3f})."
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
