"""How good is the classifier, and how sure are we of it? Scores over labels and `pred_probs`, with intervals.

Near-duplicate images are not independent witnesses: wherever `groups` is taken, intervals allow for them.
Shares (accuracy, recall, cells of a confusion matrix) have Jeffreys intervals on an effective count, since a
bootstrap calls an empty cell certain, and so have rankings; everything else has those of `weigh`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binom, norm
from sklearn.metrics import average_precision_score, roc_auc_score

from nsfwlib.evaluate.confusion import class_codes
from nsfwlib.evaluate.intervals import effective_count, group_correlation, jeffreys, share_interval, tails
from nsfwlib.evaluate.weigh import mean_of, weigh
from nsfwlib.labels import check_probs, group_codes

TINY = 1e-12  # probabilities are kept this far from 0 before a logarithm
BINS = 15  # of equal width, of confidence


def scores(
    labels: Sequence[str],
    pred_probs: np.ndarray,
    *,
    class_names: Sequence[str],
    groups: Sequence[int] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """All scores with their 95 % intervals.

    Accuracy, recall, precision and F1 have Jeffreys intervals on effective counts (F1 through the share
    TP / (TP + FP + FN), of which it is a rising function). So has average precision, as a share of the class's images
    (Boyd, Eng and Page, Area under the Precision-Recall Curve: Point Estimates and Confidence Intervals, 2013), and
    AUROC, as one of the rarer side's (no larger variance is possible: Birnbaum and Klose, Bounds for the Variance of
    the Mann-Whitney Statistic, 1957). The others have those of `weigh`; that of the calibration error allows for its
    bias: the gaps of 15 equal-width bins (Guo et al., On Calibration of Modern Neural Networks, 2017) err upwards on
    few images.

    Args:
        labels: (N,) class of each row.
        pred_probs: (N, K) probabilities, the columns those of `class_names`.
        groups: (N,) near-duplicate group of each row.
        seed: of the bootstrap.

    Returns:
        One row a score: `score`, `class` ("" for all), `value`, `low`, `high`, `support` (images), `note`.
    """
    codes = class_codes(labels, class_names)
    probs = check_probs(pred_probs, len(codes), len(class_names))
    members = group_codes(groups, len(codes))
    options = {"strata": np.zeros(len(codes)), "groups": members, "draws": 1000, "seed": seed}
    top = probs.argmax(axis=1)
    means = mean_scores(np.eye(len(class_names))[codes], probs, **options)
    error = pd.DataFrame([_calibration_error(codes == top, probs, **options)])
    parts = [_share_scores(codes, top, class_names, members), _ranking_scores(codes, probs, class_names, members)]
    parts[1:1] = [some.assign(**{"class": "", "support": len(codes)}) for some in (means, error)]
    table = pd.concat(parts, ignore_index=True)
    table["note"] = np.where(table["value"].isna(), "no image to measure it on", "")
    return table[["score", "class", "value", "low", "high", "support", "note"]]


def _share_scores(codes: np.ndarray, top: np.ndarray, class_names: Sequence[str], members: np.ndarray) -> pd.DataFrame:
    """Accuracy and each class's recall, precision and F1, with Jeffreys intervals on effective counts."""
    kinds = [("accuracy", "", np.ones(len(codes), bool))]
    for k, name in enumerate(class_names):
        label, guess = codes == k, top == k
        kinds += [("recall", name, label), ("precision", name, guess), ("f1", name, label | guess)]
    table = pd.DataFrame([kind[:2] for kind in kinds], columns=["score", "class"])
    found = share_interval(codes == top, members, among=[among for *_, among in kinds])
    shares = np.stack(found[:3], axis=1)
    shares = np.where(table[["score"]].eq("f1"), 2 * shares / (1 + shares), shares)
    table[["value", "low", "high"]] = shares
    return table.assign(support=found.rows)


def _ranking_scores(
    codes: np.ndarray, probs: np.ndarray, class_names: Sequence[str], members: np.ndarray
) -> pd.DataFrame:
    """Average precision and AUROC of each class, with Jeffreys intervals on the effective counts of its sides."""
    rows = []
    for k, name in enumerate(class_names):
        sides, rho = (codes == k, codes != k), group_correlation(probs[:, k], members)
        worth = [effective_count(members[side], int(side.sum()), correlation=rho) for side in sides]
        for score, rank, n in (
            ("average precision", average_precision_score, worth[0]),
            ("AUROC", roc_auc_score, min(worth)),
        ):
            value = rank(sides[0], probs[:, k]) if min(worth) else np.nan
            low, high = jeffreys(np.nan_to_num(value) * n, n) if min(worth) else (0.0, 1.0)
            rows.append((score, name, value, low, high, sides[0].sum()))
    return pd.DataFrame(rows, columns=["score", "class", "value", "low", "high", "support"])


def mean_scores(
    truth: np.ndarray, probs: np.ndarray, *, judge: np.ndarray | None = None, **options: Any
) -> pd.DataFrame:
    """Scores that are means of rows or of classes: `score`, `value`, `low`, `high`; `options` are those of `weigh`.

    Args:
        truth: (N, K) 1 in the column of the true class; rows of 0 where that is no class, of NaN where it is unknown.
        probs: (N, K) of the model.
        judge: (N, K) probabilities of the truth; by default it is all known.
    """
    answer, per = np.eye(probs.shape[1])[probs.argmax(axis=1)], np.repeat(truth.sum(axis=1, keepdims=True), 2, axis=1)
    brier = (probs**2).sum(axis=1, keepdims=True) - 2 * probs + 1
    losses = np.stack([-np.log(np.clip(probs, TINY, None)), brier], axis=1)  # (N, 2, K), were this class the truth
    least, most = (end(losses, axis=2).sum(axis=0)[:, None] / max(len(probs), 1) for end in (np.min, np.max))
    of_judge = (
        None if judge is None else np.c_[(judge[:, None] * losses).sum(axis=2), judge.sum(axis=1), judge.sum(axis=1)]
    )
    found = [
        mean_of(weigh(truth * answer, per=truth, **options)),
        mean_of(weigh(truth * answer, per=(truth + answer) / 2, **options)),
        weigh((truth[:, None] * losses).sum(axis=2), per=per, expected=of_judge, bounds=(least, most), **options),
    ]
    rows = np.concatenate([np.transpose([some.value, *some.interval()]) for some in found])
    names = ["balanced accuracy", "macro F1", "log-loss", "Brier score"]
    return pd.DataFrame(rows, columns=["value", "low", "high"]).assign(score=names)[["score", "value", "low", "high"]]


def _calibration_error(right: np.ndarray, probs: np.ndarray, **options: Any) -> dict[str, Any]:
    """The calibration error and its interval.

    Chance only ever raises the error. Its low end is therefore that of the smallest multiple of the gaps from which
    chance could have raised it to what is seen; the bootstrap's own quantile is high enough for the high end.
    """
    confidence, which = confidence_bins(probs)
    found = weigh(np.eye(BINS)[which] * (right - confidence)[:, None], bounds=(-1, 1), **options)
    gap, error = found.mean[:, None], np.abs(found.mean).sum()
    shrunk = np.linspace(0, 1, 41)
    reach = [np.quantile(np.abs(found.plain - (1 - part) * gap).sum(axis=0), tails()[1]) for part in shrunk]
    low, high = error * shrunk[np.argmax(np.array(reach) >= error)], max(reach[-1], error)
    return {"score": "calibration error", "value": error, "low": low, "high": high}


def confidence_bins(probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Confidence (N,) of the top class and the number of its equal-width bin, upper edge included."""
    confidence = probs.max(axis=1, initial=0)
    return confidence, np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)


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
) -> dict[str, float | int | str]:
    """Paired difference of two models on the same rows, in accuracy or in any other mean, with its 95 % interval.

    Interval: of accuracy adjusted Wald by Agresti and Min (Simple improved confidence intervals for comparing matched
    proportions, 2005) on an effective count, of other means Wald from the spread between groups. Test: were the models
    equal, each near-duplicate group's difference could as well have the other sign; p is the exact share of such sign
    flips whose sum is as far from 0 (of single images, McNemar's test).

    Args:
        right: (N,) bool, or numbers of which higher is better, such as −`log_losses`; these have no p.
        baseline_right: the same of the other model.
        groups: (N,) near-duplicate group of each row.
        weights: (N,) above 0, what each audited row stands for.

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
    sums, z = np.bincount(members, weights=steps), norm.ppf(tails()[1])
    if counted:
        worth = effective_count(members, len(steps), correlation=group_correlation(steps, members), weights=weight)
        squares = worth * np.average(steps**2, weights=weight) + 1
        centre = worth * step / (worth + 2)
        half = z * np.sqrt(squares - centre**2 * (worth + 2)) / (worth + 2)
        low, high, p = max(centre - half, -1), min(centre + half, 1), _sign_flips(np.rint(sums).astype(int))
        sentence = (
            f"Accuracy {one:.1%} against {two:.1%}: a difference of {100 * step:+.1f} points ({100 * low:+.1f} to "
            f"{100 * high:+.1f}), p = {p:.2g}."
        )
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
