"""Safe or unsafe: what does a threshold do, here and where unsafe uploads are rarer?"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nsfwlib import runs
from nsfwlib.data import DEFAULT_CLASSES
from nsfwlib.evaluate.intervals import TAILS, Groups, Names, Weights, jeffreys, share_interval
from nsfwlib.labels import group_codes

UPLOADS = 100_000  # to which counts refer


class Judged(NamedTuple):
    """Rows whose side is known: by their labels, or by an audit with what each audited row stands for."""

    unsafe: np.ndarray  # (N,) bool
    score: np.ndarray  # (N,) higher is more unsafe
    weights: Any = None  # (N,) NaN or 0 where nobody looked; None: all count equally
    groups: Any = None  # (N,) near-duplicate group


def unsafe_side(asked: Names, class_names: Names, *, run_dir: Path) -> list[str]:
    """The classes to be flagged: `asked`; where those are the five's and none of these, what 04 was told of this run.

    Of that the classes that are there; empty where 04 was told nothing, a ValueError where all it was told of are gone.
    """
    if not asked or set(asked) - set(DEFAULT_CLASSES) or set(asked) & set(class_names):
        return list(asked)
    record = Path(run_dir) / "metrics.json"
    told = runs.read_json(record).get("unsafe_classes", []) if record.exists() else []
    if told and not set(told) & set(class_names):
        raise ValueError(f"Expected any of {told}, which {record} flags. Received: {class_names}. Set unsafe_classes.")
    return [name for name in told if name in class_names]


def unsafe_score(pred_probs: np.ndarray, *, class_names: Names, unsafe_classes: Names) -> np.ndarray:
    """(N,) probability of being unsafe: the sum over the unsafe classes."""
    if not set() < set(unsafe_classes) < set(class_names):
        raise ValueError(f"Expected unsafe_classes: some, not all, of {[*class_names]}. Received: {[*unsafe_classes]}.")
    return np.asarray(pred_probs, dtype=float)[:, np.isin(class_names, list(unsafe_classes))].sum(axis=1)


def checked(rows: Judged) -> Judged:
    """The rows that count for anything, as arrays, groups as codes; what cannot be counted is a ValueError."""
    unsafe, score = np.asarray(rows.unsafe), np.asarray(rows.score, dtype=float)
    weight = np.ones(len(score)) if rows.weights is None else np.nan_to_num(np.asarray(rows.weights, dtype=float))
    if unsafe.dtype != bool or not unsafe.shape == score.shape == weight.shape:
        received = f"Received: {unsafe.dtype} {unsafe.shape}, {score.shape} and {weight.shape}."
        raise ValueError(f"Expected unsafe as bool, score and weights as numbers of one length. {received}")
    for name, bad in (("NaN or infinite scores", ~np.isfinite(score)), ("negative weights", weight < 0)):
        if bad.any():
            raise ValueError(f"Expected finite scores, no weight below 0. Received: {bad.sum():,} {name}.")
    return Judged(*(column[weight > 0] for column in (unsafe, score, weight, group_codes(rows.groups, len(score)))))


def counts_by_threshold(rows: Judged) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct scores, falling, and what the unsafe and safe rows at or above each weigh, by weights (N,) or (N, B)."""
    order = np.argsort(-rows.score, kind="stable")
    ends = np.flatnonzero(np.r_[np.diff(rows.score[order]) != 0, True][: len(order)])
    weight = np.asarray(rows.weights)[order].T
    hits, alarms = (np.cumsum((weight * side[order]).T, axis=0)[ends] for side in (rows.unsafe, ~rows.unsafe))
    return rows.score[order][ends], hits, alarms


def threshold_curve(
    unsafe: np.ndarray, score: np.ndarray, *, groups: Groups = None, weights: Weights = None, most: int = 400
) -> pd.DataFrame:
    """What each threshold does, for precision-recall and ROC curves; an image is flagged at `score >= threshold`.

    Arguments are those of `Judged`. Up to `most` rows come, evenly picked among the distinct scores: `threshold`
    (falling), and `recall`, `fpr`, `precision`, each with `_low` and `_high`, which hold for each threshold by itself.
    Precision is at the prevalence of these rows. Columns are NaN with intervals [0, 1] where a side has no image.
    """
    rows = checked(Judged(unsafe, score, weights, groups))
    threshold, hits, alarms = counts_by_threshold(rows)
    few = np.unique(np.linspace(0, len(threshold) - 1, min(most, len(threshold))).astype(int))
    hits, alarms, table = hits[few], alarms[few], {"threshold": threshold[few]}
    sides = {"recall": (hits, rows.unsafe), "fpr": (alarms, ~rows.unsafe), "precision": (hits, rows.unsafe | True)}
    found = share_interval(rows.score, rows.groups, among=[side for _, side in sides.values()], weights=rows.weights)
    for (name, (part, side)), worth in zip(sides.items(), found.worth, strict=True):
        total = rows.weights[side].sum()
        trials = hits + alarms if name == "precision" else np.full(len(few), total)
        each = worth / max(total, 1e-12)
        low, high = jeffreys(part * each, trials * each)
        table |= {name: part / np.where(trials > 0, trials, np.nan), f"{name}_low": low, f"{name}_high": high}
    return pd.DataFrame(table)


def at_threshold(
    unsafe: np.ndarray,
    score: np.ndarray,
    threshold: float,
    *,
    prevalence: Sequence[float] | float,
    review_from: float | None = None,
    costs: tuple[float, float, float] = (0.0, 0.0, 0.0),
    groups: Groups = None,
    weights: Weights = None,
    draws: int = 4000,
    seed: int = 0,
) -> pd.DataFrame:
    """One row a prevalence: rates and counts in 100,000 uploads where pictures are flagged from a threshold on.

    Every number has `_low` and `_high`, from `draws` of each side's shares, Beta on effective counts, and lies between
    them. Recall and false-positive rate are taken to hold at the deployment's prevalence, that is, safe and
    unsafe uploads there to be like those measured.

    Args, others as in `threshold_curve`:
        prevalence: shares of unsafe uploads, in [0, 1].
        review_from: from here on up to `threshold` a person looks; by default nobody does.
        costs: of a missed, a wrongly flagged and a reviewed picture.

    Columns: `prevalence`, `threshold`, `review_from`; `recall` (share of unsafe pictures that do not pass), `fpr`
    (share of safe ones flagged), `precision` (of those flagged); numbers of pictures `flagged`, `false_alarms`,
    `missed`, `reviewed`; `cost`.
    """
    prevalence = np.atleast_1d(np.asarray(prevalence, dtype=float))
    if not ((prevalence >= 0) & (prevalence <= 1)).all():
        raise ValueError(f"Expected prevalence as a share in [0, 1]. Received: {prevalence.tolist()}.")
    unsafe, score, weight, members = checked(Judged(unsafe, score, weights, groups))
    low = threshold if review_from is None else min(review_from, threshold)
    stopped, flagged, sides = score >= low, score >= threshold, (unsafe, ~unsafe)
    held, alarm = (share_interval(some, members, among=sides, weights=weight) for some in (stopped, flagged))
    certain = share_interval(flagged, members, among=[side & stopped for side in sides], weights=weight)
    rng = np.random.default_rng(seed)
    counts = ((np.nan_to_num(part.value) * part.worth, part.worth) for part in (held, certain))
    some = [rng.beta(hits + 0.5, worth - hits + 0.5, (draws, 1, 2)) for hits, worth in counts]
    if low == threshold or np.isinf(threshold):  # whatever is stopped is flagged, or nothing ever is
        some[1] = np.full((1, 1, 2), float(np.isfinite(threshold)))
    table = {"prevalence": prevalence, "threshold": threshold, "review_from": low}
    for i, (name, found) in enumerate((("recall", held), ("fpr", alarm))):
        table |= {name: found.value[i], f"{name}_low": found.low[i], f"{name}_high": found.high[i]}
    point = held.value, alarm.value / np.where(held.value > 0, held.value, 1)
    spread = _expected(*some, prevalence=prevalence, costs=costs)
    for name, value in _expected(*point, prevalence=prevalence, costs=costs).items():
        ends = np.quantile(spread[name], TAILS, axis=0)
        table |= {name: value, f"{name}_low": np.fmin(ends[0], value), f"{name}_high": np.fmax(ends[1], value)}
    return pd.DataFrame(table)


def _expected(
    stopped: np.ndarray, certain: np.ndarray, *, prevalence: np.ndarray, costs: Sequence[float]
) -> dict[str, np.ndarray]:
    """The numbers (…, P) of `at_threshold` by shares (…, 2) of unsafe and safe pictures stopped, and flagged."""
    held = UPLOADS * np.stack([prevalence, 1 - prevalence], axis=-1) * stopped
    found, missed = held * certain, UPLOADS * prevalence - held[..., 0]
    alarms, flagged, reviewed = found[..., 1], found.sum(axis=-1), (held - found).sum(axis=-1)
    return {
        "precision": found[..., 0] / np.where(flagged > 0, flagged, np.nan), "flagged": flagged,
        "false_alarms": alarms, "missed": missed, "reviewed": reviewed,
        "cost": costs[0] * missed + costs[1] * alarms + costs[2] * reviewed,
    }  # fmt: skip
