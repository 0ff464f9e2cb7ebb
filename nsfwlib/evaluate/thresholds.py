"""Safe or unsafe: which thresholds should be deployed, and what will they do there?"""

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from nsfwlib.evaluate.intervals import effective_count, group_correlation, jeffreys, share_interval, tails
from nsfwlib.evaluate.promises import (
    Judged,
    checked,
    counts_by_threshold,
    independent_units,
    promised_threshold,
    review_band,
)

UPLOADS = 100_000  # to which counts refer


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
    weights: Sequence[float] | None = None,
    most: int = 400,
) -> pd.DataFrame:
    """What each threshold does, for precision-recall and ROC curves; an image is flagged at `score >= threshold`.

    Args:
        unsafe: bool (N,), the truth.
        score: (N,), higher is more unsafe.
        groups: (N,) near-duplicate group of each row.
        weights: (N,) what each audited row stands for, NaN or 0 elsewhere; by default all rows count equally.
        most: rows of the result at most, evenly picked among the distinct scores.

    Returns:
        `threshold` (falling), and `recall`, `fpr`, `precision`, each with `_low` and `_high`, which hold for each
        threshold by itself. Precision is at the prevalence of these rows. Columns are NaN with intervals [0, 1] where
        a side has no image.
    """
    rows = checked(Judged(unsafe, score, weights, groups))
    threshold, hits, alarms = counts_by_threshold(rows)
    few = np.unique(np.linspace(0, len(threshold) - 1, min(most, len(threshold))).astype(int))
    hits, alarms = hits[few], alarms[few]
    rho = group_correlation(rows.score, rows.groups)
    table = pd.DataFrame({"threshold": threshold[few]})
    sides = (("recall", hits, rows.unsafe), ("fpr", alarms, ~rows.unsafe), ("precision", hits, rows.unsafe | True))
    for name, part, among in sides:
        weight = rows.weights[among]
        trials = hits + alarms if name == "precision" else np.full(len(few), weight.sum())
        worth = effective_count(rows.groups[among], int(among.sum()), correlation=rho, weights=weight)
        worth /= max(weight.sum(), 1e-12)
        table[name] = part / np.where(trials > 0, trials, np.nan)
        table[f"{name}_low"], table[f"{name}_high"] = jeffreys(part * worth, trials * worth)
    return table


def at_threshold(
    unsafe: np.ndarray,
    score: np.ndarray,
    threshold: float,
    *,
    prevalence: Sequence[float] | float,
    review_from: float | None = None,
    costs: tuple[float, float, float] = (0.0, 0.0, 0.0),
    groups: Sequence[int] | None = None,
    weights: Sequence[float] | None = None,
    draws: int = 4000,
    seed: int = 0,
) -> pd.DataFrame:
    """One row a prevalence: rates and counts in 100,000 uploads where pictures are flagged from a threshold on.

    Every number has `_low` and `_high`, from Beta distributions of each side's shares on effective counts, and lies
    between them. Recall and false-positive rate are taken to hold at the deployment's prevalence, that is, safe and
    unsafe uploads there to be like those measured.

    Args, others as in `threshold_curve`:
        threshold: from here on a picture is flagged.
        prevalence: shares of unsafe uploads, in [0, 1].
        review_from: from here on up to `threshold` a person looks; by default nobody does.
        costs: of a missed, a wrongly flagged and a reviewed picture.
        draws: of the distributions, from `seed`.

    Returns:
        `prevalence`, `threshold`, `review_from`; `recall` (share of unsafe pictures that do not pass), `fpr` (share
        of safe ones flagged), `precision` (of those flagged); numbers of pictures `flagged`, `false_alarms`,
        `missed`, `reviewed`; `cost`.
    """
    prevalence = np.atleast_1d(np.asarray(prevalence, dtype=float))
    if not ((prevalence >= 0) & (prevalence <= 1)).all():
        raise ValueError(f"Expected prevalence as a share in [0, 1]. Received: {prevalence.tolist()}.")
    unsafe, score, weight, members = checked(Judged(unsafe, score, weights, groups))
    low = threshold if review_from is None else min(review_from, threshold)
    stopped, flagged = score >= low, score >= threshold
    held, alarm = (
        share_interval(some, members, among=(unsafe, ~unsafe), weights=weight) for some in (stopped, flagged)
    )
    certain = share_interval(flagged, members, among=(unsafe & stopped, ~unsafe & stopped), weights=weight)
    rng = np.random.default_rng(seed)
    some = [rng.beta(part.hits + 0.5, part.worth - part.hits + 0.5, (draws, 1, 2)) for part in (held, certain)]
    if low == threshold or np.isinf(threshold):  # whatever is stopped is flagged, or nothing ever is
        some[1] = np.full((1, 1, 2), float(np.isfinite(threshold)))
    table = pd.DataFrame({"prevalence": prevalence, "threshold": threshold, "review_from": low})
    for i, (name, found) in enumerate((("recall", held), ("fpr", alarm))):
        table[name], table[f"{name}_low"], table[f"{name}_high"] = (column[i] for column in found[:3])
    point = held.value, alarm.value / np.where(held.value > 0, held.value, 1)
    spread = _expected(*some, prevalence=prevalence, costs=costs)
    for name, value in _expected(*point, prevalence=prevalence, costs=costs).items():
        ends = np.quantile(spread[name], tails(), axis=0)
        table[name], table[f"{name}_low"], table[f"{name}_high"] = (
            value,
            np.fmin(ends[0], value),
            np.fmax(ends[1], value),
        )
    return table


def _expected(
    stopped: np.ndarray, certain: np.ndarray, *, prevalence: np.ndarray, costs: Sequence[float]
) -> dict[str, np.ndarray]:
    """What to expect of uploads at each prevalence (P,), by Bayes' rule: the numbers (…, P) of `at_threshold`.

    `stopped` are the shares (…, 2) of the unsafe and of the safe pictures that do not pass, `certain` those of them
    that are flagged without a person.
    """
    held = UPLOADS * np.stack([prevalence, 1 - prevalence], axis=-1) * stopped
    found = held * certain
    alarms, flagged, reviewed = found[..., 1], found.sum(axis=-1), (held - found).sum(axis=-1)
    missed = UPLOADS * prevalence - held[..., 0]
    return {
        "precision": found[..., 0] / np.where(flagged > 0, flagged, np.nan), "flagged": flagged,
        "false_alarms": alarms, "missed": missed, "reviewed": reviewed,
        "cost": costs[0] * missed + costs[1] * alarms + costs[2] * reviewed,
    }  # fmt: skip


def operating_points(
    unsafe: np.ndarray,
    scores: np.ndarray,
    *,
    validation: Sequence,
    wishes: Sequence[tuple] = (("precision", 0.9), ("recall", 0.95), ("fpr", 0.01)),
    prevalence: Sequence[float] = (0.5, 0.1, 0.01, 0.001),
    groups: Sequence[int] | None = None,
    weights: Sequence[float] | None = None,
    promise: float | None = 0.95,
    wrongly_blocked: float = 0.001,
    seed: int = 0,
) -> pd.DataFrame:
    """Thresholds chosen on validation rows for each wish, and what they do on test rows at each prevalence.

    Args, those of the test rows as in `threshold_curve`:
        validation: `Judged`, or its first two to four arrays.
        wishes: ("precision" or "recall", at least) or ("fpr", at most) give one threshold, the most useful that keeps
            it. Two, with a person between them, come of ("reviewed", at most so many of 100,000 uploads) and of
            ("cost", (of a missed, of a wrongly blocked, of a reviewed picture)), see `promises.review_band`.
        prevalence: shares of unsafe uploads expected in deployment; precision and the work of people depend on it.
        promise: confidence with which a wish is to hold beyond these rows (Learn then Test); None takes the threshold
            that just grants it on validation, which elsewhere is a coin toss.
        wrongly_blocked: share of safe pictures that may be blocked where people review; if that cannot be promised,
            nothing is blocked unseen: `threshold` is infinite.
        seed: of the draws behind intervals, and of the picture drawn from each near-duplicate group of validation.

    Returns:
        One row a wish and prevalence: `wish`, the columns of `at_threshold`, and `note`, a sentence where no
        threshold can be promised and how many more validation pictures it would take (then the numbers are NaN).
    """
    units, rows = independent_units(Judged(*validation), seed=seed), []
    risk = None if promise is None else 1 - promise
    for (kind, wish), share in itertools.product(wishes, prevalence):
        name, low = _wish_name(kind, wish), None
        if kind in ("reviewed", "cost"):
            asked = {"capacity": wish / UPLOADS} if kind == "reviewed" else {"costs": wish}
            low, high, note = review_band(units, prevalence=share, wrongly_blocked=wrongly_blocked, risk=risk, **asked)
        else:
            high, note = promised_threshold(units, kind, wish, prevalence=share, risk=risk)
        row = at_threshold(
            unsafe, scores, high, prevalence=share, review_from=low, costs=wish if kind == "cost" else (0, 0, 0),
            groups=groups, weights=weights, seed=seed,
        )  # fmt: skip
        if np.isnan(high):
            row.loc[:, row.columns[2:]] = np.nan
        rows.append(pd.concat([pd.DataFrame({"wish": [name]}), row.assign(note=note)], axis=1))
    return pd.concat(rows, ignore_index=True)


def _wish_name(kind: str, wish: float | Sequence[float]) -> str:
    if kind == "cost" and np.shape(wish) == (3,):
        return "least cost ({:g} missed, {:g} wrongly blocked, {:g} reviewed)".format(*wish)
    if kind == "reviewed" and np.ndim(wish) == 0 and 0 <= wish <= UPLOADS:
        return f"reviewed ≤ {wish:,.0f} of {UPLOADS:,}"
    if kind in ("precision", "recall", "fpr") and np.ndim(wish) == 0 and 0 <= wish <= 1:
        return f"{kind} {'≤' if kind == 'fpr' else '≥'} {wish:g}"
    raise ValueError(
        f"Expected wishes such as ('precision', 0.9), ('recall', 0.95) or ('fpr', 0.01), shares in [0, 1], "
        f"('reviewed', 2000) or ('cost', (50, 5, 0.1)). Received: {(kind, wish)!r}."
    )
