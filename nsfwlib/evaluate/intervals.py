"""How many witnesses are near-duplicates worth, and how sure does that make a share?"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import beta

from nsfwlib.labels import group_codes

FEW_GROUPS = 10  # with fewer groups of several images, near-duplicates are taken to agree fully


def jeffreys(hits: np.ndarray, trials: np.ndarray, *, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Jeffreys interval of a share: (low, high), Beta(½ + hits, ½ + misses); [0, 1] without a trial.

    Counts may be fractions, as effective counts are. No hit gives a low of 0, no miss a high of 1.
    Source: Brown, Cai, DasGupta, Interval Estimation for a Binomial Proportion, 2001.
    """
    hits, trials = np.broadcast_arrays(np.asarray(hits, dtype=float), np.asarray(trials, dtype=float))
    tail = (1 - level) / 2
    misses = np.maximum(trials - hits, 0)
    low = np.where(hits > 0, beta.ppf(tail, hits + 0.5, misses + 0.5), 0.0)
    high = np.where(misses > 0, beta.ppf(1 - tail, hits + 0.5, misses + 0.5), 1.0)
    return low, high


class Share(NamedTuple):
    """A share and what it rests on: numbers, or arrays (M,) with one entry a part of the rows."""

    value: np.ndarray | float
    low: np.ndarray | float
    high: np.ndarray | float
    rows: np.ndarray | int
    worth: np.ndarray | float  # effective count of the rows
    correlation: float  # within near-duplicate groups, over all rows

    @property
    def hits(self) -> np.ndarray | float:
        """Effective count of the rows with the outcome."""
        return np.nan_to_num(self.value) * self.worth


def share_interval(
    outcome: np.ndarray,
    groups: Sequence[int] | None = None,
    *,
    among: Iterable[np.ndarray] | None = None,
    weights: np.ndarray | None = None,
    level: float = 0.95,
) -> Share:
    """Share of the rows with an outcome, and its Jeffreys interval on what these rows are worth.

    Args:
        outcome: (N,) bool, or 1 and 0.
        groups: (N,) near-duplicate group of each row; how far members agree is measured over all N.
        among: M masks (N,), one for each part whose share is asked for; all rows by default.
        weights: (N,) above 0, how many rows each stands for; equal by default.
        level: of the interval.

    Returns:
        Arrays (M,), or numbers where `among` is None. A part without a row has the value NaN and the interval [0, 1].
    """
    outcome = np.asarray(outcome, dtype=float)
    members = group_codes(groups, len(outcome))
    rho = group_correlation(outcome, members)
    weight = np.ones(len(outcome)) if weights is None else weights
    parts = [np.ones(len(outcome), bool)] if among is None else list(among)
    rows = np.array([part.sum() for part in parts], dtype=int)
    worth = np.array([
        effective_count(members[part], n, correlation=rho, weights=weight[part])
        for part, n in zip(parts, rows, strict=True)
    ])  # fmt: skip
    value = np.array([np.average(outcome[part], weights=weight[part]) if part.any() else np.nan for part in parts])
    found = [value, *jeffreys(np.nan_to_num(value) * worth, worth, level=level), rows, worth]
    return Share(*(found if among is not None else [column.item() for column in found]), rho)  # type: ignore[call-arg]


def group_correlation(outcomes: np.ndarray, groups: Sequence[int] | None) -> float:
    """Correlation in [0, 1] of an outcome within near-duplicate groups, by one-way analysis of variance.

    1 where fewer than 10 groups have several rows or nothing varies: too little to believe anything milder.

    Args:
        outcomes: (N,) numbers, such as 0 and 1 for wrong and right.
        groups: (N,) group of each row; None means that all rows are independent.
    """
    y = np.asarray(outcomes, dtype=float)
    codes = group_codes(groups, len(y))
    size = np.bincount(codes)
    n, g = len(y), len(size)
    if (size > 1).sum() < FEW_GROUPS or np.ptp(y) == 0:
        return 1.0
    means = np.bincount(codes, weights=y) / size
    between = (size * (means - y.mean()) ** 2).sum() / (g - 1)
    within = ((y - means[codes]) ** 2).sum() / (n - g)
    typical = (n - (size**2).sum() / n) / (g - 1)
    return float(np.clip((between - within) / (between + (typical - 1) * within), 0, 1))


def effective_count(
    groups: Sequence[int] | None, n: int, *, correlation: float = 1.0, weights: np.ndarray | None = None
) -> float:
    """How many independent rows n rows of these weights are worth: (Σw)² / ((1 − ρ)·Σw² + ρ·Σ(weight of a group)²).

    Source: Kish, Survey Sampling, 1965. With equal weights it is n / (1 + (m − 1)·ρ), m the mean group size of a row.
    """
    weight = np.ones(n) if weights is None else weights
    together = np.bincount(group_codes(groups, n), weights=weight)
    spread = (1 - correlation) * (weight**2).sum() + correlation * (together**2).sum()
    return float(weight.sum() ** 2 / spread) if n else 0.0


def bootstrap_weights(members: np.ndarray, draws: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Blocks (N, B) of positive row weights, one exponential draw a group; B sums to draws.

    Source: Rubin, The Bayesian Bootstrap, 1981. No resample ever loses a class.
    """
    block = int(np.clip(4_000_000 // len(members), 1, draws))
    for start in range(0, draws, block):
        weight = rng.standard_exponential((members.max() + 1, min(block, draws - start)), dtype=np.float32)
        yield weight[members]


def tails(level: float = 0.95) -> list[float]:
    """The two quantiles between which an interval of this level lies."""
    return [(1 - level) / 2, (1 + level) / 2]
