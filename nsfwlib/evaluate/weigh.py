"""How does a random sample of strata become a mean of all rows, and how sure is it? One estimator for every number.

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

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import norm

from nsfwlib.evaluate.intervals import bootstrap_weights, effective_count, tails
from nsfwlib.labels import group_codes

DRAWS = 4000  # of each bootstrap


class Weighed(NamedTuple):
    """M numbers and their draws: as they are, and with half a row more at the low and at the high end."""

    value: np.ndarray  # (M,) means, or shares of what is counted
    mean: np.ndarray  # (M,) means over all rows, counted or not
    plain: np.ndarray  # (M, draws)
    low: np.ndarray  # (M, draws)
    high: np.ndarray  # (M, draws)

    def interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Low and high (M,); the value is never outside."""
        low, high = (np.quantile(end, tail, axis=1) for end, tail in zip(self[3:], tails(level), strict=True))
        return np.fmin(low, self.value), np.fmax(high, self.value)


def weigh(
    outcome: np.ndarray,
    strata: np.ndarray,
    *,
    expected: np.ndarray | None = None,
    per: np.ndarray | None = None,
    bounds: Sequence[Any] = (0.0, 1.0),
    groups: Sequence[int] | None = None,
    draws: int | None = None,
    seed: int = 0,
) -> Weighed:
    """Means over all rows of outcomes that are known of a random sample of each stratum.

    A stratum without a known row adds nothing to the value, and all that it could be to the interval.

    Args:
        outcome: (N, M) numbers, rows of NaN where unknown.
        strata: (N,) stratum of each row.
        expected: (N, M) what the judge expects of each row, or (N, 2M) of outcome and `per`; by default nothing.
        per: (N, M) 1 where a row counts, 0 where not, known where the outcome is: shares of what counts are asked for.
        bounds: the least and the greatest that an outcome can be, or (M, 1) of each.
        groups: (N,) near-duplicate group of each row.
        draws: of the bootstrap, DRAWS by default, from `seed`.
    """
    y = outcome if per is None else np.concatenate([outcome, per], axis=1)
    known, members = np.isfinite(y).all(axis=1), group_codes(groups, len(y))
    if not known.any():
        nothing = np.full((outcome.shape[1], 1), np.nan)
        return Weighed(nothing[:, 0], nothing[:, 0], nothing, *(np.full_like(nothing, end) for end in bounds))
    codes, names = pd.factorize(strata)
    size, seen = (np.bincount(rows, minlength=len(names)) for rows in (codes, codes[known]))
    y, at, part = y[known], codes[known], size / len(codes)
    weight = (part / np.maximum(seen, 1))[at]
    rest = np.zeros((len(names), y.shape[1]))
    if expected is not None:
        y, rest = _against_the_judge(y, expected, codes, known, weight)
    rng, draws = np.random.default_rng(seed), draws or DRAWS
    parts = rng.dirichlet(size * effective_count(members, len(members)) / len(members), draws).T
    total = rest.T @ parts + _bootstrap(y, at, parts, pd.factorize(members[known])[0], rng)
    mean = weight @ y + part @ rest
    heft = np.bincount(members[known], weight)
    more = (heft**2).sum() / heft.sum() * rng.gamma(0.5, size=draws)
    return _ends(mean, total, more, parts[seen == 0].sum(axis=0), bounds, counted=per is not None)


def _against_the_judge(
    y: np.ndarray, expected: np.ndarray, codes: np.ndarray, known: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes less what the judge expected of them, and what each stratum gets for its rows without an answer."""
    n, at = codes.max() + 1, codes[known]
    open_share = np.bincount(codes[~known], minlength=n) / np.bincount(codes, minlength=n)
    control = open_share[at][:, None] * expected[known]
    apart_y, apart = (x - _stratum_means(x, at, n)[at] for x in (y, control))
    weight = weight[:, None] ** 2
    spread = np.maximum(np.sum(weight * apart**2, axis=0), 1e-12)
    beta = np.clip(np.sum(weight * apart_y * apart, axis=0) / spread, 0, 1)  # 0 where all answers are alike
    return y - beta * control, beta * open_share[:, None] * _stratum_means(expected[~known], codes[~known], n)


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


def _ends(
    mean: np.ndarray, total: np.ndarray, more: np.ndarray, blank: np.ndarray, bounds: Sequence[Any], *, counted: bool
) -> Weighed:
    """Draws (M, .) with the half row, and with what nobody looked at, at either end; shares of what is counted."""
    m = len(mean) // 2 if counted else len(mean)
    per, count = (total[m:], mean[m:]) if counted else (1 - blank, np.ones(m))
    with np.errstate(invalid="ignore", divide="ignore"):
        value, plain = np.where(count > 0, mean[:m] / count, np.nan), total[:m] / per
        low, high = ((total[:m] + (more + blank) * end) / (per + more + blank) for end in bounds)
    return Weighed(value, mean[:m], plain, *(np.clip(end, *bounds) for end in (low, high)))


def mean_of(found: Weighed) -> Weighed:
    """The mean of M shares; the half row goes to the one that it moves most."""
    seen = np.isfinite(found.value)
    if not seen.any():
        return Weighed(*(part[:1] for part in found))
    value, mean, plain, low, high = (part[seen] for part in found)
    down, up = (low - plain).min(axis=0) / len(plain), (high - plain).max(axis=0) / len(plain)
    centre = plain.mean(axis=0, keepdims=True)
    return Weighed(value.mean(keepdims=True), mean[:1], centre, centre + down, centre + up)


def without_slips(found: Weighed, same: float, pairs: float, k: int, *, seed: int = 0) -> Weighed:
    """Shares of agreement with the truth, from shares of agreement with a reviewer who errs.

    A reviewer of skill c gives the true class, and where not, which is 1 - c of the time, any of the k: the model of
    Dawid and Skene (Maximum Likelihood Estimation of Observer Error-rates, 1979) with one rate for all. Two of them
    agree with probability c² + (1 - c²) / k, so `same` of `pairs` second looks tell c, if slips are independent.
    """
    value, mean, *ends = found
    agree = np.random.default_rng(seed).beta(same + 0.5, pairs - same + 0.5, ends[0].shape[1])

    def true(share: np.ndarray, agree: np.ndarray | float) -> np.ndarray:
        skill = np.sqrt(np.clip((agree - 1 / k) / (1 - 1 / k), 1e-3, 1))
        return np.clip((share - (1 - skill) / k) / skill, 0, 1)

    return Weighed(true(value, same / pairs), true(mean, same / pairs), *(true(end, agree) for end in ends))


def at_any_time(width: float, seen: int, planned: int, *, level: float = 0.95) -> float:
    """The width of an interval that holds at all times at once, from that of one which holds at `seen` looks.

    The asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (Time-uniform Central Limit
    Theory, 2024), narrowest at `planned` looks: there about one and a half times as wide. Betting sequences need
    no limit theorem, but rows of unequal weight make them several times wider at sizes that people look at.
    """
    alpha = 1 - level
    shape = seen / planned * (-2 * np.log(alpha) + np.log(1 - 2 * np.log(alpha)))
    return width * np.sqrt(2 * (shape + 1) / shape * np.log(np.sqrt(shape + 1) / alpha)) / norm.ppf(1 - alpha / 2)
