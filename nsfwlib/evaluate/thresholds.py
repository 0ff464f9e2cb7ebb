"""Safe or unsafe: which thresholds should be deployed, and what will they do there?"""

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

_COUNTS = ("precision", "flagged", "false_alarms", "missed", "reviewed", "cost")


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
    level: float = 0.95,
    most: int = 400,
) -> pd.DataFrame:
    """What each threshold does, for precision-recall and ROC curves; an image is flagged at `score >= threshold`.

    Args:
        unsafe: bool (N,), the truth.
        score: (N,), higher is more unsafe.
        groups: (N,) near-duplicate group of each row.
        weights: (N,) what each audited row stands for, NaN or 0 elsewhere; by default all rows count equally.
        level: of the intervals, which hold for each threshold by itself.
        most: rows of the result at most, evenly picked among the distinct scores.

    Returns:
        `threshold` (falling), and `recall`, `fpr`, `precision`, each with `_low` and `_high`. Precision is at the
        prevalence of these rows. Columns are NaN with intervals [0, 1] where a side has no image.
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
        table[f"{name}_low"], table[f"{name}_high"] = jeffreys(part * worth, trials * worth, level=level)
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
    uploads: int = 100_000,
    level: float = 0.95,
    draws: int = 4000,
    seed: int = 0,
) -> pd.DataFrame:
    """One row a prevalence: rates and counts per `uploads` where pictures are flagged from a threshold on.

    Every number has `_low` and `_high`, from Beta distributions of each side's shares on effective counts, and lies
    between them. Recall and false-positive rate are taken to hold at the deployment's prevalence, that is, safe and
    unsafe uploads there to be like those measured.

    Args, others as in `threshold_curve`:
        threshold: from here on a picture is flagged.
        prevalence: shares of unsafe uploads, in [0, 1].
        review_from: from here on up to `threshold` a person looks; by default nobody does.
        costs: of a missed, a wrongly flagged and a reviewed picture.
        uploads: to which counts refer.
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
    among, options = (unsafe, ~unsafe), {"weights": weight, "level": level}
    held = share_interval(stopped, members, among=among, **options)
    alarm = share_interval(flagged, members, among=among, **options)
    certain = share_interval(flagged, members, among=[side & stopped for side in among], **options)
    rng = np.random.default_rng(seed)
    counts = [(part.hits[:, None] + 0.5, (part.worth - part.hits)[:, None] + 0.5) for part in (held, certain)]
    some = [rng.beta(*pair, (2, draws)) for pair in counts]
    if low == threshold or np.isinf(threshold):  # whatever is stopped is flagged, or nothing ever is
        some[1] = np.full((2, 1), float(np.isfinite(threshold)))
    point = held.value, alarm.value / np.where(held.value > 0, held.value, 1)
    table = pd.DataFrame({"prevalence": prevalence, "threshold": threshold, "review_from": low})
    for i, (name, found) in enumerate((("recall", held), ("fpr", alarm))):
        table[name], table[f"{name}_low"], table[f"{name}_high"] = (column[i] for column in found[:3])
    exact = [expected_counts(*point, prevalence=p, uploads=uploads, costs=costs) for p in prevalence]
    spread = [expected_counts(*some, prevalence=p, uploads=uploads, costs=costs) for p in prevalence]
    for name in _COUNTS:
        value = np.array([part[name] for part in exact])
        ends = np.array([np.quantile(part[name], tails(level)) for part in spread]).T
        table[name] = value
        table[f"{name}_low"], table[f"{name}_high"] = np.fmin(ends[0], value), np.fmax(ends[1], value)
    return table


def expected_counts(
    stopped: np.ndarray, certain: np.ndarray, *, prevalence: float, uploads: int, costs: tuple[float, float, float]
) -> dict[str, np.ndarray]:
    """What to expect of so many uploads, by Bayes' rule: the numbers of `at_threshold`.

    `stopped` are the shares (2, …) of the unsafe and of the safe pictures that do not pass, `certain` those of them
    that are flagged without a person.
    """
    unsafe, safe = uploads * prevalence, uploads * (1 - prevalence)
    held = unsafe * stopped[0], safe * stopped[1]
    found, alarms = held[0] * certain[0], held[1] * certain[1]
    counts = {"flagged": found + alarms, "false_alarms": alarms, "missed": unsafe - held[0]}
    counts["reviewed"] = held[0] * (1 - certain[0]) + held[1] * (1 - certain[1])
    counts["precision"] = found / np.where(found + alarms > 0, found + alarms, np.nan)
    return counts | {"cost": costs[0] * counts["missed"] + costs[1] * alarms + costs[2] * counts["reviewed"]}


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
    uploads: int = 100_000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Thresholds chosen on validation rows for each wish, and what they do on test rows at each prevalence.

    Args:
        unsafe: bool (N,), truth of the test rows.
        scores: (N,) of the test rows, higher is more unsafe.
        validation: `Judged`, or its first two to four arrays: sides and scores of the validation rows, their weights
            where they are audited, their groups.
        wishes: ("precision" or "recall", at least) or ("fpr", at most) give one threshold: of several, the one that
            flags most unsafe images for precision and false-positive rate, fewest safe ones for recall. Two, with a
            person between them, come of ("reviewed", at most so many of `uploads`) and of ("cost", (of a missed, of
            a wrongly blocked, of a reviewed picture)), see `promises.review_band`.
        prevalence: shares of unsafe uploads expected in deployment; precision and the work of people depend on it.
        groups: (N,) near-duplicate group of the test rows.
        weights: (N,) of the test rows, as in `threshold_curve`.
        promise: confidence with which a wish is to hold beyond these rows (Learn then Test); None takes the threshold
            that just grants it on validation, which elsewhere is a coin toss.
        wrongly_blocked: share of safe pictures that may be blocked where people review; if that cannot be promised,
            nothing is blocked unseen: `threshold` is infinite.
        uploads: to which counts refer.
        level: of the intervals.
        seed: of the draws behind them, and of the picture drawn from each near-duplicate group of validation.

    Returns:
        One row a wish and prevalence: `wish`, the columns of `at_threshold`, and `note`, a sentence where no
        threshold can be promised and how many more validation pictures it would take (then the numbers are NaN).
    """
    units, rows = independent_units(Judged(*validation), seed=seed), []
    rest = {"groups": groups, "weights": weights, "uploads": uploads, "level": level, "seed": seed}
    for kind, wish in wishes:
        name = _wish_name(kind, wish, uploads)
        for share in prevalence:
            choice = {"prevalence": share, "risk": None if promise is None else 1 - promise}
            if kind in ("reviewed", "cost"):
                asked = {"capacity": wish / uploads} if kind == "reviewed" else {"costs": wish}
                low, high, note = review_band(units, wrongly_blocked=wrongly_blocked, **asked, **choice)
                two = {"review_from": low, "costs": asked.get("costs", (0, 0, 0))}
            else:
                high, note = promised_threshold(units, kind, wish, **choice)
                two = {}
            row = at_threshold(unsafe, scores, high, prevalence=share, **two, **rest)
            if np.isnan(high):
                row.loc[:, row.columns[2:]] = np.nan
            rows.append(row.assign(wish=name, note=note))
    table = pd.concat(rows, ignore_index=True)
    return table[["wish", *table.columns.drop(["wish", "note"]), "note"]]


def _wish_name(kind: str, wish: float | Sequence[float], uploads: int) -> str:
    if kind == "cost" and np.shape(wish) == (3,):
        return "least cost ({:g} missed, {:g} wrongly blocked, {:g} reviewed)".format(*wish)
    if kind == "reviewed" and np.ndim(wish) == 0 and 0 <= wish <= uploads:
        return f"reviewed ≤ {wish:,.0f} of {uploads:,}"
    if kind in ("precision", "recall", "fpr") and np.ndim(wish) == 0 and 0 <= wish <= 1:
        return f"{kind} {'≤' if kind == 'fpr' else '≥'} {wish:g}"
    raise ValueError(
        f"Expected wishes such as ('precision', 0.9), ('recall', 0.95) or ('fpr', 0.01), shares in [0, 1], "
        f"('reviewed', 2000) or ('cost', (50, 5, 0.1)). Received: {(kind, wish)!r}."
    )
