"""Which wish can be promised? Thresholds that keep it with confidence, or how many pictures that would take.

Learn then Test (Angelopoulos et al., Learn then Test: Calibrating Predictive Algorithms, 2021): thresholds are tested
in a fixed order, the boldest last, and the last before the first refusal is taken. MAPIE's
BinaryClassificationController does so for rows that count equally; audit weights, near-duplicates and another
prevalence than that of the sample, of which our wishes speak, are unknown to it.
"""

import bisect
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.special import betaincinv

from nsfwlib.evaluate.intervals import Groups, Weights
from nsfwlib.evaluate.thresholds import UPLOADS, Judged, at_threshold, checked, counts_by_threshold
from nsfwlib.labels import group_codes

STAKES = 0.99 * 0.5 ** np.arange(6)  # shares of the largest bet that cannot ruin; the larger, the likelier
FEW = 60  # thresholds tried for a precision and for costs
TIMES = 1.1 ** np.arange(1, 175)  # how many times as many pictures are thought of


def independent_units(rows: Judged, *, seed: int = 0) -> Judged:
    """Rows whose near-duplicate groups are units: one row drawn each, or all sharing its weight where these differ."""
    codes = group_codes(rows.groups, len(rows.score))
    if rows.weights is None or len(set(np.nan_to_num(np.asarray(rows.weights, dtype=float)))) == 1:
        order = np.random.default_rng(seed).permutation(len(codes))
        drawn = order[np.unique(codes[order], return_index=True)[1]]
        units = Judged(*(column[drawn] for column in checked(rows._replace(weights=None))))
    else:
        units = checked(rows._replace(weights=np.asarray(rows.weights) / np.bincount(codes)[codes]))
    return units._replace(groups=np.unique(units.groups, return_inverse=True)[1])


def rate_bound(bad: np.ndarray, among: np.ndarray, units: Judged, *, risk: float | None, times: float = 1.0) -> float:
    """Upper bound of the share that is `bad` (N,) `among` (N,) bool the units, failing with probability `risk` at most.

    Exact binomial where units count equally (Clopper and Pearson, 1934). Where they do not, by betting against the
    bound at a fixed mixture of stakes: Waudby-Smith and Ramdas, Estimating Means of Bounded Random Variables by
    Betting, 2024, the bets being bounded by the heaviest unit. Without a unit it is 1. A risk of None gives the share
    itself, `times` the bound if there were so many times as many units.
    """
    mass, hit = (np.bincount(units.groups, units.weights * part) for part in (among, among & bad))
    mass, hit = mass[mass > 0], hit[mass > 0]
    if not len(mass) or hit.sum() >= mass.sum() * (1 - 1e-12):
        return 1.0
    if risk is None:
        return float(hit.sum() / mass.sum())
    if np.ptp(mass) == 0 and np.isin(hit, (0, mass[0])).all():
        hits = (hit > 0).sum() * times
        return float(betaincinv(hits + 1, len(mass) * times - hits, 1 - risk))
    kinds, counts = np.unique(np.round(hit + 1j * mass, 9), return_counts=True)
    hit, mass = kinds.real / mass.max(), kinds.imag / mass.max()

    def evidence(share: float) -> float:
        gains = np.log1p(STAKES[:, None] / (1 - share) * (share * mass - hit)) @ (counts * times)
        return float(np.logaddexp.reduce(gains + np.log(STAKES / STAKES.sum()))) + np.log(risk)

    low, high = hit @ counts / (mass @ counts), 1 - 1e-9
    return brentq(evidence, low, high, xtol=1e-7) if evidence(high) > 0 else 1.0


def promised_threshold(
    units: Judged, kind: str, wish: float, *, prevalence: float, risk: float | None
) -> tuple[float, str]:
    """The most useful threshold that keeps a wish in all but a share `risk` of such samples, or NaN, and a sentence.

    It flags most unsafe pictures for precision and FPR, fewest safe ones for recall. `risk=None`: on these rows alone.
    """
    sides = int(units.unsafe.sum()), int((~units.unsafe).sum())
    if not all(sides):
        return np.nan, f"Validation has {sides[0]:,} unsafe and {sides[1]:,} safe images: both kinds are needed."
    steps, hits, alarms = counts_by_threshold(units)
    fpr = alarms / alarms[-1]
    here = np.flatnonzero(_keeps(kind, wish, hits / hits[-1], fpr, prevalence))
    if not len(here):
        return np.nan, f"No threshold reaches {kind} {wish:g} at prevalence {prevalence:g} on validation."
    here = here[::-1] if kind == "recall" else here
    if risk is None:
        return steps[here[-1]], "A coin toss: it holds on validation, and elsewhere every second time."

    def granted(step: int, times: float = 1.0) -> bool:
        options = {"risk": risk / 2 if kind == "precision" else risk, "times": times}
        flagged = units.score >= steps[step]
        alarm = 0.0 if kind == "recall" else rate_bound(flagged, ~units.unsafe, units, **options)
        missed = 0.0 if kind == "fpr" else rate_bound(~flagged, units.unsafe, units, **options)
        return bool(_keeps(kind, wish, 1 - missed, alarm, prevalence))

    if kind == "precision":  # begins where an eighth of the false alarms is flagged that perfect recall would allow
        most = (1 - wish) * prevalence / max(wish * (1 - prevalence), 1e-12)
        start = max(int(np.searchsorted(fpr, most / 8, side="right")), 1)
        here = np.unique(np.geomspace(start, len(steps), FEW).astype(int)) - 1
        kept = len(list(itertools.takewhile(granted, here)))
    else:
        kept = bisect.bisect_left(here, True, key=lambda step: not granted(step))
    if kept:
        return steps[here[kept - 1]], ""
    return np.nan, _needed(lambda times: granted(here[0], times), kind, units)


def _keeps(kind: str, wish: float, recall: np.ndarray, fpr: np.ndarray, prevalence: float) -> np.ndarray:
    """Whether these rates keep the wish; a precision is that of Bayes' rule at the prevalence."""
    if kind == "precision":
        return (1 - wish) * prevalence * recall >= wish * (1 - prevalence) * fpr
    return recall >= wish if kind == "recall" else fpr <= wish


def _needed(granted: Callable[[float], bool], kind: str, units: Judged) -> str:
    """How many more pictures it would take to grant a wish, to a tenth, in a sentence."""
    found = bisect.bisect_left(TIMES, True, key=granted)
    if found == len(TIMES):
        return "Cannot be promised: validation shows no margin, and more pictures like these would not."
    more = [f"{float(f'{(TIMES[found] - 1) * side.sum():.2g}'):,.0f} more" for side in (units.unsafe, ~units.unsafe)]
    unsafe, safe = f"{more[0]} unsafe", f"{more[1]} safe"
    more = {"recall": unsafe, "fpr": safe}.get(kind, f"{safe} and {unsafe}")
    return f"Cannot be promised: about {more} pictures are needed."


def review_band(
    units: Judged, kind: str, wish: Any, *, prevalence: float, wrongly_blocked: float, risk: float | None
) -> tuple[float, float, str]:
    """From which score a person looks, from which nobody need, and a sentence; infinite where that is never.

    A number "reviewed" of 100,000 uploads is kept, like the share of safe pictures `wrongly_blocked` unseen, in all but
    a share `risk` of such samples; None takes rates as they are on these `independent_units`. A "cost", of a missed, a
    wrongly blocked and a reviewed picture, is least if what is missed and wrongly blocked were at its bounds.
    """
    unsafe, score, steps = units.unsafe, units.score, np.unique(units.score)[::-1]
    sides = ((prevalence, unsafe), (1 - prevalence, ~unsafe))
    if kind == "cost":
        steps = np.r_[np.inf, steps]
        steps = steps[np.unique(np.linspace(0, len(steps) - 1, FEW).astype(int))]
        flagged = [sum(p * rate_bound(score >= t, side, units, risk=None) for p, side in sides) for t in steps]
        missed = [rate_bound(score < t, unsafe, units, risk=risk) for t in steps]
        wrong = [rate_bound(score >= t, ~unsafe, units, risk=risk) * np.isfinite(t) for t in steps]
        seen = wish[0] * prevalence * np.array(missed) + wish[2] * np.array(flagged)
        blocked = wish[1] * (1 - prevalence) * np.array(wrong) - wish[2] * np.array(flagged)
        total = np.where(np.tri(len(steps), dtype=bool), seen[:, None] + blocked, np.inf)
        low, high = np.unravel_index(total.argmin(), total.shape)
        return steps[low], steps[high], "" if risk else "Least cost on validation."
    half = risk and risk / 2
    high, note = promised_threshold(units, "fpr", wrongly_blocked, prevalence=prevalence, risk=half)
    if np.isnan(high):
        high, note = np.inf, f"Nothing is blocked unseen. {note}"
    steps = steps[steps < high]

    def fits(threshold: float, times: float = 1.0) -> bool:
        band, options = (score >= threshold) & (score < high), {"risk": half and half / 2, "times": times}
        return sum(share * rate_bound(band, side, units, **options) for share, side in sides) <= wish / UPLOADS

    reached = bisect.bisect_left(steps, True, key=lambda threshold: not fits(threshold))
    if reached or risk is None:
        return (steps[reached - 1] if reached else high), high, note
    return np.nan, np.nan, _needed(lambda times: len(steps) > 0 and fits(steps[0], times), "reviewed", units)


def operating_points(
    unsafe: np.ndarray,
    scores: np.ndarray,
    *,
    validation: Sequence,
    wishes: Sequence[tuple] = (("precision", 0.9), ("recall", 0.95), ("fpr", 0.01)),
    prevalence: Sequence[float] = (0.5, 0.1, 0.01, 0.001),
    groups: Groups = None,
    weights: Weights = None,
    promise: float | None = 0.95,
    wrongly_blocked: float = 0.001,
    seed: int = 0,
) -> pd.DataFrame:
    """Thresholds chosen on validation rows for each wish, and what they do on test rows at each prevalence.

    Args, those of the test rows as in `threshold_curve`:
        validation: `Judged`, or its first two to four arrays.
        wishes: ("precision" or "recall", at least) or ("fpr", at most) give one threshold, the most useful that keeps
            it. Two, with a person between them, come of ("reviewed", at most so many of 100,000 uploads) and of
            ("cost", (of a missed, of a wrongly blocked, of a reviewed picture)).
        prevalence: shares of unsafe uploads expected in deployment; precision and the work of people depend on it.
        promise: confidence with which a wish is to hold beyond these rows (Learn then Test); None takes the threshold
            that just grants it on validation, which elsewhere is a coin toss.
        wrongly_blocked: share of safe pictures that may be blocked where people review; if that cannot be promised,
            nothing is blocked unseen: `threshold` is infinite.

    One row comes a wish and prevalence: `wish`, the columns of `at_threshold`, and `note`, a sentence where no
    threshold can be promised and how many more validation pictures it would take (then the numbers are NaN).
    """
    units, rows = independent_units(Judged(*validation), seed=seed), []
    for (kind, wish), share in itertools.product(wishes, prevalence):
        name, low = _wish_name(kind, wish), None
        asked = {"prevalence": share, "risk": None if promise is None else 1 - promise}
        if kind in ("reviewed", "cost"):
            low, high, note = review_band(units, kind, wish, wrongly_blocked=wrongly_blocked, **asked)
        else:
            high, note = promised_threshold(units, kind, wish, **asked)
        options = {"groups": groups, "weights": weights, "seed": seed, "costs": wish if kind == "cost" else (0, 0, 0)}
        row = at_threshold(unsafe, scores, high, prevalence=share, review_from=low, **options)
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
