"""Safe or unsafe: which threshold should be deployed, and what will it do there?"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from nsfwlib.evaluate.intervals import effective_count, group_correlation, jeffreys, share_interval, tails
from nsfwlib.labels import group_codes


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
    unsafe: np.ndarray, score: np.ndarray, *, groups: Sequence[int] | None = None, level: float = 0.95, most: int = 400
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
    sides = (("recall", hits, unsafe), ("fpr", alarms, ~unsafe), ("precision", hits, unsafe | True))
    for name, part, among in sides:
        rows = int(among.sum())
        trials = hits + alarms if name == "precision" else np.full(len(few), rows)
        worth = effective_count(members[among], rows, correlation=rho) / max(rows, 1)
        table[name] = part / np.where(trials > 0, trials, np.nan)
        table[f"{name}_low"], table[f"{name}_high"] = jeffreys(part * worth, trials * worth, level=level)
    return table


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
    found = share_interval(score >= threshold, members, among=(unsafe, ~unsafe), level=level)
    table = pd.DataFrame({"prevalence": prevalence, "threshold": threshold})
    for i, name in enumerate(("recall", "fpr")):
        table[name], table[f"{name}_low"], table[f"{name}_high"] = (column[i] for column in found[:3])
    rng = np.random.default_rng(seed)
    samples = rng.beta(found.hits[:, None] + 0.5, (found.worth - found.hits)[:, None] + 0.5, (2, draws))
    exact = expected_counts(*found.value, prevalence=prevalence, uploads=uploads)
    spread = [expected_counts(*samples, prevalence=p, uploads=uploads).quantile(tails(level)) for p in prevalence]
    for name in ("precision", "flagged", "false_alarms", "missed"):
        table[name] = exact[name]
        table[[f"{name}_low", f"{name}_high"]] = [part[name].to_numpy() for part in spread]
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


def _counts_by_threshold(unsafe: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct scores, falling, and the unsafe and safe images at or above each."""
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.r_[score[order][1:] != score[order][:-1], True][: len(score)])
    hits = np.cumsum(unsafe[order])[ends]
    return score[order][ends], hits, ends + 1 - hits


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
    return unsafe, score, group_codes(groups, len(score))
