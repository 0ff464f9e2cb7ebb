"""Which pictures does a person look at so that a number need not believe noisy labels, and how many of them?

Believing noisy labels makes a good model look bad, reviewing only its disagreements makes it look too good. The way
out is a random sample with chances that are known: high where the answer is open, low where it is nearly sure
(Neyman, 1934). Each answered row then stands for as many as its chance says; `audited` makes numbers of them.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from nsfwlib.evaluate.audited import audited_share, judged
from nsfwlib.labels import group_codes

STRATA = ("reviewed before", "disagreement", "suspicious agreement", "agreement")
# Standard deviation of the answers in a stratum: no judge is trusted to be surer than that.
LEAST_SPREAD = {STRATA[0]: 0.1, STRATA[1]: 0.3, STRATA[2]: 0.1, STRATA[3]: 0.1}


def draw_audit(
    labels: Sequence[str],
    predicted: Sequence[str],
    pred_probs: np.ndarray,
    *,
    class_names: Sequence[str],
    budget: int = 100,
    reviewed: Sequence[bool] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Which rows a person has to look at so that accuracy can be estimated without bias.

    Strata are what was reviewed before, disagreements of label and prediction, the most suspicious fifth of the
    agreements and the others. Each gets its part of the budget by its size and how open its answers are: where looks
    are many, that is all disagreements. Draw once per model, before anyone looks; `enlarge_audit` adds to it.

    Args:
        labels: (N,) labels as they are.
        predicted: (N,) predicted labels.
        pred_probs: (N, K) of a judge that saw none of these labels; kept as the control of the estimates.
        class_names: the K classes.
        budget: how many rows to look at.
        reviewed: (N,) rows that somebody decided before, not blind.
        seed: of the sample.

    Returns:
        In input order: `label`, `predicted`, `stratum` (one of STRATA), `order` (random place within the stratum,
        from 0), `picked`, and `P(<class>)`, the judge's probabilities with the label as one witness more. Review picked
        rows in the order of `order`: where a person stops early, those seen are still a random sample.
    """
    columns = [f"P({name})" for name in class_names]
    audit = pd.DataFrame({"label": np.asarray(labels, object), "predicted": np.asarray(predicted, object)})
    audit[columns] = _with_label(
        np.reshape(pred_probs, (len(audit), len(columns))), pd.Index(class_names).get_indexer(audit["label"])
    )
    known = np.zeros(len(audit), bool) if reviewed is None else np.asarray(reviewed, dtype=bool)
    apart = audit["label"].ne(audit["predicted"]).to_numpy()
    agree = np.flatnonzero(~apart & ~known)
    worst = agree[np.argsort(judged(audit, audit["label"])[agree], kind="stable")][: round(len(agree) / 5)]
    stratum = np.full(len(audit), STRATA[3], dtype=object)
    stratum[worst], stratum[apart], stratum[known] = STRATA[2], STRATA[1], STRATA[0]
    audit["stratum"], audit["order"] = stratum, np.random.default_rng(seed).permutation(len(audit))
    audit["order"] = audit.groupby("stratum")["order"].rank().astype(int) - 1
    return enlarge_audit(audit, budget=budget)


def _with_label(probs: np.ndarray, codes: np.ndarray, *, rounds: int = 8) -> np.ndarray:
    """(N, K) probabilities of each class where a judge (N, K) saw no label and labels are wrong at some one rate.

    The rate is the one at which as many labels are wrong as are then expected to be: expectation maximisation.
    """
    k, rate = probs.shape[1], 0.1
    given = np.eye(k + 1)[codes, :k]
    for _ in range(rounds if len(probs) else 0):
        joint = np.clip(probs, 1e-6, 1) * np.where(given, 1 - rate, rate / max(k - 1, 1))
        joint /= joint.sum(axis=1, keepdims=True)
        rate = np.clip(1 - (joint * given).sum(axis=1).mean(), 1e-3, 0.5)
    return (joint if len(probs) else probs).astype(np.float32)


def enlarge_audit(audit: pd.DataFrame, *, budget: int) -> pd.DataFrame:
    """The same audit with so many picked; what was picked stays picked, strata and order stay as they were."""
    chance = pd.Series(judged(audit, audit["predicted"]), audit.index)
    spread = (chance * (1 - chance)).groupby(audit["stratum"]).mean().pow(0.5)
    spread = spread.clip(lower=spread.index.map(LEAST_SPREAD))
    quota = _allocated(audit["stratum"].value_counts(), spread, budget)
    return audit.assign(picked=audit["order"].lt(audit["stratum"].map(quota)) | audit.get("picked", False))


def _allocated(size: pd.Series, spread: pd.Series, budget: int) -> pd.Series:
    """Neyman's allocation of the budget; no stratum gets more than its rows, and each a twentieth where it has them."""
    quota, want = 0 * size, size * spread
    for _ in size:
        full = quota.ge(size)
        left = max(budget - size[full].sum(), 0)
        quota = size.where(full, np.minimum(want * left / max(want[~full].sum(), 1e-9), size))
    return quota.round().clip(lower=np.minimum(size, max(2, budget // 20))).astype(int)


def audit_weights(audit: pd.DataFrame, verdict: Sequence[str | None]) -> pd.Series:
    """(N,) how many rows each answered row stands for, 1 / its chance to be answered; NaN where none is.

    In every stratum they sum to its rows, so weighted sums over answered rows estimate sums over all (Horvitz and
    Thompson, A Generalization of Sampling Without Replacement From a Finite Universe, 1952).
    """
    known = audit["picked"] & ~pd.isna(np.asarray(verdict, object))
    counted = known.groupby(audit["stratum"])
    return (counted.transform("size") / counted.transform("sum").clip(lower=1)).where(known).rename("weight")


def audit_plan(
    audit: pd.DataFrame, *, budgets: Sequence[int] = (50, 100, 200, 400, 800), seed: int = 0
) -> pd.DataFrame:
    """What an audit costs and buys, before anyone looks: `pictures` to look at, `width` of the interval in points.

    Answers are imagined as the judge expects them, alike within near-duplicate groups, and weighed as real ones are.

    Args:
        audit: as from `draw_audit`.
        budgets: sizes to compare; those beyond the rows there are come once.
        seed: of what is imagined.
    """
    members = group_codes(audit.get("group"), len(audit))
    dice = np.random.default_rng(seed).random((5, members.max(initial=-1) + 1))[:, members]
    rows = {}
    for budget in budgets:
        larger = enlarge_audit(audit.drop(columns="picked", errors="ignore"), budget=budget)
        chance, picked = judged(larger, larger["predicted"]), larger["picked"].to_numpy()
        answers = [np.where(picked, die < chance, np.nan) for die in dice]
        drawn = [audited_share(one, larger, expected=chance, seed=seed) for one in answers]
        rows[int(picked.sum())] = 100 * np.mean([found["high"] - found["low"] for found in drawn])
    return pd.DataFrame({"pictures": rows.keys(), "width": rows.values()})
