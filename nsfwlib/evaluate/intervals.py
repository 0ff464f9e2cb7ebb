"""How sure is a share, or a mean of which a sample is known (`weigh`), where near-duplicates are no witnesses?

**Estimate.** The mean of each stratum is that of its answered rows, corrected by how far the judge's expectation of
them differs from its expectation of all rows: the difference estimator of Angelopoulos, Duchi and Zrnic, PPI++,
2023, on strata sampled as Zrnic and Candès do it, Active Statistical Inference, 2024. A judge that knows nothing
costs nothing, for its weight is fitted.

**Interval.** A Bayesian bootstrap by near-duplicate group (Rubin, 1981) with half a row more at each end, answered as
badly, or as well, as can be, and as heavy as groups are: their mean by weight (the heaviest one covers a little more
and is up to a third wider). One for all strata, as Fay and Feuer have it for standardized rates (Statistics in
Medicine, 1997): priors of each stratum's own would add up, and one without a miss would not count as nothing at the
one end. With one stratum and outcomes 0 and 1 this is Jeffreys' interval.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import betaincinv, ndtri  # quantiles; scipy.stats takes a second to load

from nsfwlib.labels import group_codes

Names = Sequence[str]  # of classes, or (N,) the class of each row
Groups = Sequence[int] | None  # (N,) near-duplicate group of each row; None: all rows are independent
Weights = Sequence[float] | None  # (N,) above 0, how many rows each stands for; None: all count equally
TAILS = [(1 - 0.95) / 2, (1 + 0.95) / 2]  # quantiles between which an interval of 95 % lies
TINY = 1e-12  # probabilities are kept this far from 0 before a logarithm
DRAWS = 4000  # of each bootstrap of `weigh`
FEW_GROUPS = 10  # with fewer groups of several images, near-duplicates are taken to agree fully


def jeffreys(hits: np.ndarray, trials: np.ndarray, *, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Jeffreys interval of a share: (low, high), Beta(½ + hits, ½ + misses); [0, 1] without a trial.

    Counts may be fractions, as effective counts are. No hit gives a low of 0, no miss a high of 1.
    Source: Brown, Cai, DasGupta, Interval Estimation for a Binomial Proportion, 2001.
    """
    hits, trials = np.broadcast_arrays(np.asarray(hits, dtype=float), np.asarray(trials, dtype=float))
    tail, misses = (1 - level) / 2, np.maximum(trials - hits, 0)
    low = np.where(hits > 0, betaincinv(hits + 0.5, misses + 0.5, tail), 0.0)
    high = np.where(misses > 0, betaincinv(hits + 0.5, misses + 0.5, 1 - tail), 1.0)
    return low, high


class Share(NamedTuple):
    """A share and what it rests on: numbers, or arrays (M,) with one entry a part of the rows."""

    value: np.ndarray | float
    low: np.ndarray | float
    high: np.ndarray | float
    rows: np.ndarray | int
    worth: np.ndarray | float  # effective count of the rows


def share_interval(
    outcome: np.ndarray,
    groups: Groups = None,
    *,
    among: Iterable[np.ndarray] | None = None,
    weights: Weights = None,
    level: float = 0.95,
) -> Share:
    """Share of the rows with an outcome, and its Jeffreys interval on what these rows are worth.

    Args:
        outcome: (N,) bool, or 1 and 0; of other numbers what the rows are worth.
        groups: (N,) near-duplicate group of each row; how far members agree is measured over all N.
        among: M masks (N,), one for each part whose share is asked for: then arrays (M,) are returned, else numbers. A
            part without a row has the value NaN and the interval [0, 1].
        weights: (N,) above 0, how many rows each stands for; equal by default.
    """
    outcome = np.asarray(outcome, dtype=float)
    members = group_codes(groups, len(outcome))
    rho = group_correlation(outcome, members)
    weight = np.ones(len(outcome)) if weights is None else np.asarray(weights)
    parts = [np.ones(len(outcome), bool)] if among is None else list(among)
    rows = np.array([part.sum() for part in parts], dtype=int)
    worth = np.array([effective_count(members[p], p.sum(), correlation=rho, weights=weight[p]) for p in parts])
    value = np.array([np.average(outcome[part], weights=weight[part]) if part.any() else np.nan for part in parts])
    found = [value, *jeffreys(np.nan_to_num(value) * worth, worth, level=level), rows, worth]
    return Share(*(found if among is not None else [column.item() for column in found]))  # type: ignore[arg-type]


def group_correlation(outcomes: np.ndarray, groups: Groups) -> float:
    """Correlation in [0, 1] of numbers (N,) within groups (analysis of variance); 1 with few groups of several rows."""
    y, codes = np.asarray(outcomes, dtype=float), group_codes(groups, len(outcomes))
    size = np.bincount(codes)
    n, g = len(y), len(size)
    if (size > 1).sum() < FEW_GROUPS or np.ptp(y) == 0:
        return 1.0
    means = np.bincount(codes, weights=y) / size
    between = (size * (means - y.mean()) ** 2).sum() / (g - 1)
    within = ((y - means[codes]) ** 2).sum() / (n - g)
    typical = (n - (size**2).sum() / n) / (g - 1)
    return float(np.clip((between - within) / (between + (typical - 1) * within), 0, 1))


def effective_count(groups: Groups, n: int, *, correlation: float = 1.0, weights: Weights = None) -> float:
    """Independent rows that n make (Kish, Survey Sampling, 1965): (Σw)² / ((1 − ρ)·Σw² + ρ·Σ(weight of group)²)."""
    weight = np.ones(n) if weights is None else np.asarray(weights)
    together = np.bincount(group_codes(groups, n), weights=weight)
    spread = (1 - correlation) * (weight**2).sum() + correlation * (together**2).sum()
    return float(weight.sum() ** 2 / spread) if n else 0.0


def bootstrap_weights(members: np.ndarray, draws: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Blocks (N, B) of positive row weights, one exponential draw a group; B sums to draws. None ever loses a class."""
    block = int(np.clip(4_000_000 // len(members), 1, draws))
    for start in range(0, draws, block):
        yield rng.standard_exponential((members.max() + 1, min(block, draws - start)), dtype=np.float32)[members]


class Weighed(NamedTuple):
    """M numbers and their draws (M, D): as they are, and with half a row more at the low and at the high end."""

    value: np.ndarray  # (M,) means, or shares of what is counted
    mean: np.ndarray  # (M,) means over all rows, counted or not
    plain: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def interval(self) -> tuple[np.ndarray, np.ndarray]:
        """Low and high (M,) of 95 %; the value is never outside."""
        low, high = (np.quantile(end, tail, axis=1) for end, tail in zip(self[3:], TAILS, strict=True))
        return np.fmin(low, self.value), np.fmax(high, self.value)


def weigh(
    outcome: np.ndarray,
    strata: np.ndarray,
    *,
    expected: np.ndarray | None = None,
    per: np.ndarray | None = None,
    bounds: Sequence[Any] = (0.0, 1.0),
    groups: Groups = None,
    draws: int | None = None,
    seed: int = 0,
) -> Weighed:
    """Means over all rows of outcomes that are known of a random sample of each of the `strata` (N,).

    A stratum without a known row adds nothing to the value, and all that it could be to the interval.

    Args:
        outcome: (N, M) numbers, rows of NaN where unknown.
        expected: (N, M) what the judge expects of each row, or (N, 2M) of outcome and `per`; by default nothing.
        per: (N, M) 1 where a row counts, 0 where not, known where the outcome is: shares of what counts are asked for.
        bounds: the least and the greatest that an outcome can be, or (M, 1) of each.
    """
    m, y = outcome.shape[1], outcome if per is None else np.concatenate([outcome, per], axis=1)
    known, members = np.isfinite(y).all(axis=1), group_codes(groups, len(y))
    if not known.any():
        nothing = np.full((m, 1), np.nan)
        return Weighed(nothing[:, 0], nothing[:, 0], nothing, *(np.full_like(nothing, end) for end in bounds))
    codes, names = pd.factorize(strata)
    size, seen = (np.bincount(rows, minlength=len(names)) for rows in (codes, codes[known]))
    y, at, part = y[known], codes[known], size / len(codes)
    weight = (part / np.maximum(seen, 1))[at]
    if expected is not None:
        y, rest = _against_the_judge(y, expected, codes, known, weight)
    rng, draws = np.random.default_rng(seed), draws or DRAWS
    parts = rng.dirichlet(size * effective_count(members, len(members)) / len(members), draws).T
    total = _bootstrap(y, at, parts, pd.factorize(members[known])[0], rng)
    mean = weight @ y
    if expected is not None and not known.all():
        mean += part @ _stratum_means(rest, codes[~known], len(names))
        total += _of_the_rest(rest, codes[~known], parts, members[~known], rng)
    heft = np.bincount(members[known], weight)
    more = (heft**2).sum() / heft.sum() * rng.gamma(0.5, size=draws)  # the half row at either end
    blank = parts[seen == 0].sum(axis=0)  # what nobody looked at
    counts, count = (1 - blank, np.ones(m)) if per is None else (total[m:], mean[m:])
    with np.errstate(invalid="ignore", divide="ignore"):
        value, plain = np.where(count > 0, mean[:m] / count, np.nan), total[:m] / counts
        ends = [(total[:m] + (more + blank) * end) / (counts + more + blank) for end in bounds]
    return Weighed(value, mean[:m], plain, *(np.clip(end, *bounds) for end in ends))


def _against_the_judge(
    y: np.ndarray, expected: np.ndarray, codes: np.ndarray, known: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes less what the judge expected of them, and what it adds for each row without an answer."""
    n, at, weight = codes.max() + 1, codes[known], weight[:, None] ** 2
    open_share = np.bincount(codes[~known], minlength=n) / np.bincount(codes, minlength=n)
    control = open_share[at][:, None] * expected[known]
    apart_y, apart = (x - _stratum_means(x, at, n)[at] for x in (y, control))
    spread = np.maximum(np.sum(weight * apart**2, axis=0), 1e-12)
    beta = np.clip(np.sum(weight * apart_y * apart, axis=0) / spread, 0, 1)  # 0 where all answers are alike
    return y - beta * control, beta * open_share[codes[~known], None] * expected[~known]


def _of_the_rest(
    rest: np.ndarray, at: np.ndarray, parts: np.ndarray, members: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """As `_bootstrap`, of rows without an answer: they are a sample, too, and many enough for a normal distribution."""
    means, n = _stratum_means(rest, at, len(parts)), np.maximum(np.bincount(at), 1)
    apart, total = pd.DataFrame((rest - means[at]) / n[at, None]).groupby([at, members]).sum(), means.T @ parts
    for s, sums in apart.groupby(level=0):
        total += parts[s] * rng.multivariate_normal(np.zeros(rest.shape[1]), sums.T @ sums, parts.shape[1]).T
    return total


def _stratum_means(x: np.ndarray, at: np.ndarray, n: int) -> np.ndarray:
    """(n, M) means of the rows (., M) of each stratum; 0 of one without rows."""
    total = np.stack([np.bincount(at, column, n) for column in x.T], axis=1)
    return total / np.maximum(np.bincount(at, minlength=n), 1)[:, None]


def _bootstrap(
    y: np.ndarray, at: np.ndarray, parts: np.ndarray, members: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """(M, draws) sums over strata of their parts (S, draws) times the mean of their rows, one draw a group."""
    blocks, done, strata = [], 0, np.unique(at)
    y = y.T.astype(np.float32)  # as the weights are: no copy of them in double
    for block in bootstrap_weights(members, parts.shape[1], rng):
        part = parts[:, done : (done := done + block.shape[1])]
        for s in strata:
            rows = at == s if len(strata) > 1 else slice(None)
            block[rows] *= (part[s] / block[rows].sum(axis=0)).astype(np.float32)
        blocks.append(y @ block)
    return np.concatenate(blocks, axis=1).astype(float)


def mean_of(found: Weighed) -> Weighed:
    """The mean of M shares; the half row goes to the one that it moves most."""
    seen = np.isfinite(found.value)
    if not seen.any():
        return Weighed(*(part[:1] for part in found))
    value, mean, plain, low, high = (part[seen] for part in found)
    down, up, centre = (low - plain).min(axis=0), (high - plain).max(axis=0), plain.mean(axis=0, keepdims=True)
    return Weighed(value.mean(keepdims=True), mean[:1], centre, centre + down / len(plain), centre + up / len(plain))


def at_any_time(width: float, seen: int, planned: int) -> float:
    """The width of an interval that holds at all times at once, from that of one which holds at `seen` looks.

    The asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (Time-uniform Central Limit
    Theory, 2024), narrowest at `planned` looks: there about one and a half times as wide. Betting sequences need
    no limit theorem, but rows of unequal weight make them several times wider at sizes that people look at.
    """
    alpha = 1 - 0.95
    shape = seen / planned * (-2 * np.log(alpha) + np.log(1 - 2 * np.log(alpha)))
    return width * np.sqrt(2 * (shape + 1) / shape * np.log(np.sqrt(shape + 1) / alpha)) / ndtri(1 - alpha / 2)


def mean_scores(truth: np.ndarray, probs: np.ndarray, *, judge: np.ndarray | None = None, **how: Any) -> pd.DataFrame:
    """Scores that are means of rows or of classes: `score`, `value`, `low`, `high`; `how` is as for `weigh`.

    `truth` (N, K) has 1 in the column of the true class, rows of 0 where that is no class, of NaN where it is unknown;
    `judge` (N, K) are probabilities of it, where not all is known.
    """
    answer, per = np.eye(probs.shape[1])[probs.argmax(axis=1)], np.repeat(truth.sum(axis=1, keepdims=True), 2, axis=1)
    brier = (probs**2).sum(axis=1, keepdims=True) - 2 * probs + 1
    losses = np.stack([-np.log(np.clip(probs, TINY, None)), brier], axis=1)  # (N, 2, K), were this class the truth
    least, most = (end(losses, axis=2).sum(axis=0)[:, None] / max(len(probs), 1) for end in (np.min, np.max))
    if judge is not None:
        judge = np.c_[(judge[:, None] * losses).sum(axis=2), judge.sum(axis=1), judge.sum(axis=1)]
    found = [
        mean_of(weigh(truth * answer, per=truth, **how)),
        mean_of(weigh(truth * answer, per=(truth + answer) / 2, **how)),
        weigh((truth[:, None] * losses).sum(axis=2), per=per, expected=judge, bounds=(least, most), **how),
    ]
    rows = np.concatenate([np.transpose([some.value, *some.interval()]) for some in found])
    names = ["balanced accuracy", "macro F1", "log-loss", "Brier score"]
    return pd.DataFrame(rows, columns=["value", "low", "high"]).assign(score=names)[["score", "value", "low", "high"]]
