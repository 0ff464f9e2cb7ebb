"""How much of what comes in is it, from a few looks at a day's uploads, and what will a week of review cost?"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import ks_2samp

from nsfwlib.evaluate.audit import allocated
from nsfwlib.evaluate.intervals import TAILS, Names, weigh

EDGES = (0.5, 0.8, 0.95, 0.99)  # shares of the traffic, by score, between which strata lie
MINUTES = 60
LEAST_SPREAD = 0.05  # of answers in a stratum, whatever the scores say


def draw_traffic(table: pd.DataFrame, score: Sequence[float], *, budget: int = 200, seed: int = 0) -> pd.DataFrame:
    """Which of these uploads does a person look at? Those that score high more often, each with a known chance.

    The same scores and seed give the same draw, and a larger `budget` of looks adds to it: it is frozen by itself.

    `table` has `path`, `sha256`, and `group` where known, of N uploads without a label, `score` (N,) says how unsafe a
    detector finds them; NaN is left out. For `audit_queue` and `audit_truth` come `stratum`, `order`, `picked`.
    """
    scored = table.assign(score=np.asarray(score, float), label="", predicted="")
    audit = scored.dropna(subset="score", ignore_index=True)
    if audit.empty:
        raise ValueError(f"Expected uploads with a score. Received: {len(table):,} rows, none with one.")
    audit["group"] = audit.get("group", audit.index)
    draw = pd.Series(np.random.default_rng([seed, len(audit)]).permutation(len(audit)))
    place = (audit["score"].rank(method="first") - 0.5) / len(audit)
    audit["stratum"] = "part " + pd.Series(np.searchsorted(EDGES, place) + 1).astype(str)
    audit["order"] = draw.groupby(audit["stratum"]).rank().astype(int) - 1
    expected = audit.groupby("stratum")["score"].mean().clip(0, 1)
    spread = np.sqrt(expected * (1 - expected)).clip(lower=LEAST_SPREAD)
    quota = allocated(audit["stratum"].value_counts(), spread, budget)
    return audit.assign(picked=audit["order"].lt(audit["stratum"].map(quota)))


def traffic_shares(
    audit: pd.DataFrame, verdict: pd.Series, *, kinds: dict[str, Names], by: Sequence[str] | None = None
) -> pd.DataFrame:
    """Share of each kind in the traffic, one row a kind and value of `by`: for `plots.plot_intervals`.

    Args, `audit` being that of `draw_traffic`:
        verdict: as from `audit_truth`; what has no answer is left out, what belongs to no class is none of the kinds.
        kinds: name → the classes it is made of, such as {"unsafe": ["porn", "hentai"]}.
        by: (N,) source, format, day, or whatever else is known of every upload.

    Columns: `name`, `part` (of `by`), `value`, `low`, `high` (of 95 %), `looks`, `uploads`.
    """
    parts = pd.Series("all" if by is None else np.asarray(by, object), audit.index)
    outcome = np.stack([_known(classes, audit, verdict) for classes in kinds.values()], axis=1)
    tables = []
    for part, inside in parts.groupby(parts).indices.items():
        some = audit.iloc[inside]
        found = weigh(outcome[inside], some["stratum"].to_numpy(), groups=some["group"])
        table = pd.DataFrame({"name": list(kinds), "part": part, "value": found.value})
        table["low"], table["high"] = found.interval()
        tables.append(table.assign(looks=np.isfinite(outcome[inside]).sum(axis=0), uploads=len(inside)))
    return pd.concat(tables, ignore_index=True)


def traffic_at(
    audit: pd.DataFrame, verdict: pd.Series, thresholds: Sequence[float], *, unsafe_classes: Names
) -> pd.DataFrame:
    """Shares by threshold: `flagged`; `precision`, `recall`, `missed` (of all) with intervals; see `traffic_shares`."""
    unsafe = _known(unsafe_classes, audit, verdict)[:, None]
    flag = audit["score"].to_numpy()[:, None] >= np.asarray(thresholds, float)
    pairs = {"precision": (unsafe * flag, flag + 0 * unsafe), "recall": (unsafe * flag, unsafe + 0 * flag)}
    table = pd.DataFrame({"threshold": thresholds, "flagged": flag.mean(axis=0)})
    for name, (outcome, per) in (pairs | {"missed": (unsafe * ~flag, None)}).items():
        found = weigh(outcome, audit["stratum"].to_numpy(), per=per, groups=audit["group"])
        table[name], (table[f"{name}_low"], table[f"{name}_high"]) = found.value, found.interval()
    return table


def _known(classes: Names, audit: pd.DataFrame, verdict: pd.Series) -> np.ndarray:
    return verdict.isin(list(classes)).astype(float).where(audit["picked"] & verdict.notna()).to_numpy()


def score_shift(
    before: pd.DataFrame, verdict: pd.Series, after: Sequence[float], *, unsafe_classes: Names, seed: int = 0
) -> pd.Series:
    """Has the traffic changed, by scores alone? A two-sample test, and the new share of unsafe without a look.

    The share is black-box shift estimation (Lipton, Wang and Smola, Detecting and Correcting for Label Shift, 2018)
    with the score as predictor. It holds where unsafe and safe uploads are each as they were and only their mix has
    changed; where it leaves the interval of new looks, they are not.

    `before` is that of `draw_traffic`, answered by `verdict`, `after` (M,) are scores of the new traffic. What comes is
    `distance` (Kolmogorov and Smirnov) and its `p`; `value`, `low`, `high` of the new share, NaN where `before` has no
    unsafe picture, or scores that do not tell it from safe ones.
    """
    after = pd.Series(after, dtype=float).dropna().to_numpy()
    score, unsafe = before["score"].to_numpy()[:, None], _known(unsafe_classes, before, verdict)[:, None]
    test, sides = ks_2samp(score[:, 0], after), np.c_[unsafe, 1 - unsafe]
    means = weigh(score * sides, before["stratum"].to_numpy(), per=sides, groups=before["group"])
    error = after.std() / np.sqrt(len(after)) * np.random.default_rng(seed).normal(size=means.plain.shape[1])
    (high, low), new = np.c_[means.value, means.plain], after.mean() + np.r_[0, error]
    share = np.where(high > low, np.clip((new - low) / np.where(high > low, high - low, 1), 0, 1), np.nan)
    low, high = np.nanquantile(share, TAILS) if np.isfinite(share[0]) else (0.0, 1.0)
    return pd.Series({"distance": test.statistic, "p": test.pvalue, "value": share[0], "low": low, "high": high})


def review_week(
    uploads: Sequence[float],
    reviewers: Sequence[int],
    *,
    to_person: float,
    seconds: float,
    unsafe: float = 0.0,
    seed: int = 0,
) -> pd.DataFrame:
    """A week of the review queue, first come first served, minute by minute; one row an hour.

    Args:
        uploads: (H,) expected uploads in each hour; those that a person is to see arrive at random (Poisson).
        reviewers: (H,) people at work in each hour.
        to_person: share of the uploads that a person sees.
        seconds: that a picture takes, such as the journal has them.
        unsafe: share of what people see that is unsafe.

    Columns: `arrived`, `reviewed`, `backlog` at the hour's end, `waiting`, the mean minutes until those that arrived
    were seen (infinite where that is not within these hours), `exposure`, minutes that people look at unsafe ones.
    """
    if len(uploads) != len(reviewers) or not 0 <= to_person <= 1 or seconds <= 0:
        received = f"Received: {len(uploads)} and {len(reviewers)} hours, {to_person}, {seconds}."
        raise ValueError(f"Expected uploads, reviewers of the same hours, to_person in [0, 1], seconds > 0. {received}")
    uploads, staff = (np.repeat(np.asarray(some, float), MINUTES) for some in (uploads, reviewers))
    arrived = np.random.default_rng(seed).poisson(uploads / MINUTES * to_person)
    surplus = np.cumsum(arrived - staff * 60 / seconds)
    backlog = surplus - np.minimum(np.minimum.accumulate(surplus), 0)  # Lindley's recursion
    came, minute = np.cumsum(arrived), np.arange(len(arrived))
    seen = came - backlog
    until = np.searchsorted(np.maximum.accumulate(seen), came - 1e-9)
    wait = np.where(until < len(came), until - minute, np.inf)
    parts = np.diff(seen, prepend=0), arrived, np.where(arrived > 0, wait, 0) * arrived
    done, count, waited = (np.bincount(minute // MINUTES, some) for some in parts)
    waiting = waited / np.where(count > 0, count, np.nan)
    table = {"arrived": count, "reviewed": done, "backlog": backlog[MINUTES - 1 :: MINUTES], "waiting": waiting}
    return pd.DataFrame(table | {"exposure": done * seconds / 60 * unsafe})


def clip_scores(frames: pd.DataFrame, k: int) -> pd.Series:
    """Of each `clip` the k-th highest `score` of its frames: at or above t where k frames are; 0 where it has fewer."""
    kth = frames.set_index("clip")["score"].sort_values(ascending=False).groupby(level=0).nth(k - 1)
    return kth.reindex(frames["clip"].unique()).fillna(0.0)
