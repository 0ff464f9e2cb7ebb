"""How accurate is the classifier really, where labels are noisy? A sample that a person looks at, and what it tells.

Believing noisy labels makes a good model look bad, reviewing only its disagreements makes it look too good. The way
out is stratified: all disagreements, a random sample of agreements, each weighted by what it stands for.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from nsfwlib.evaluate.confusion import class_codes, confusion_intervals
from nsfwlib.evaluate.intervals import effective_count, share_interval, tails
from nsfwlib.labels import group_codes

STRATA = ("reviewed before", "disagreement", "suspicious agreement", "agreement")


def draw_audit(
    labels: Sequence[str],
    predicted: Sequence[str],
    suspicion: Sequence[float],
    *,
    agreements: int = 100,
    disagreements: int | None = None,
    reviewed: Sequence[bool] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Which rows a person has to look at so that accuracy can be estimated without bias.

    All rows in which label and prediction disagree, and a random sample of agreements, half of it from the most
    suspicious fifth. Draw once per model, before anyone looks, and keep the result: `enlarge_audit` adds to it.

    Args:
        labels: (N,) labels as they are.
        predicted: (N,) predicted labels.
        suspicion: (N,) higher is more suspect, such as 1 − P(label).
        agreements: how many agreements to look at.
        disagreements: how many disagreements; None takes all, as accuracy needs it. A sample does for the share of
            label errors in a large set.
        reviewed: (N,) rows whose truth is known already; they are a stratum of their own and cost nothing.
        seed: of the sample.

    Returns:
        In input order: `stratum` (one of STRATA), `order` (random place within the stratum, from 0) and `picked`.
        Review picked rows in the order of `order`: where a person stops early, those seen are still a random sample.
    """
    labels, predicted = np.asarray(labels, dtype=object), np.asarray(predicted, dtype=object)
    suspicion = np.asarray(suspicion, dtype=float)
    if not len(labels) == len(predicted) == len(suspicion):
        raise ValueError(
            f"Expected labels, predictions and suspicion of one length. Received: {len(labels)}, {len(predicted)}"
            f" and {len(suspicion)}."
        )
    known = np.zeros(len(labels), bool) if reviewed is None else np.asarray(reviewed, dtype=bool)
    agree = np.flatnonzero((labels == predicted) & ~known)
    worst = agree[np.argsort(-suspicion[agree], kind="stable")][: round(len(agree) / 5)]
    stratum = np.full(len(labels), STRATA[3], dtype=object)
    stratum[worst], stratum[labels != predicted], stratum[known] = STRATA[2], STRATA[1], STRATA[0]
    audit = pd.DataFrame({"stratum": stratum, "order": np.random.default_rng(seed).permutation(len(labels))})
    audit["order"] = audit.groupby("stratum")["order"].rank().astype(int) - 1
    return enlarge_audit(audit, agreements=agreements, disagreements=disagreements)


def enlarge_audit(audit: pd.DataFrame, *, agreements: int, disagreements: int | None = None) -> pd.DataFrame:
    """The same audit with so many picked; what was picked stays picked, strata and order stay as they were."""
    size = audit["stratum"].value_counts().reindex(STRATA, fill_value=0)
    few = min(agreements // 2, size[STRATA[2]])
    rest = min(agreements - few, size[STRATA[3]])
    few = min(agreements - rest, size[STRATA[2]])
    quota = {STRATA[0]: 0, STRATA[1]: size[STRATA[1]] if disagreements is None else disagreements}
    quota = audit["stratum"].map(quota | {STRATA[2]: few, STRATA[3]: rest})
    return audit.assign(picked=audit["order"].lt(quota.astype(int)) | audit.get("picked", False))


def audit_weights(audit: pd.DataFrame, verdict: Sequence[str | None] | None = None) -> pd.Series:
    """How many rows each answered row stands for, 1 / its chance to be answered; NaN where none is.

    In every stratum they sum to its rows, so weighted sums over answered rows estimate sums over all (Horvitz and
    Thompson, A Generalization of Sampling Without Replacement From a Finite Universe, 1952).

    Args:
        audit: as from `draw_audit`.
        verdict: (N,) as from `audit_truth`; by default all picked rows count as answered.
    """
    known = audit["picked"].astype(bool) if verdict is None else audit["picked"] & ~pd.isna(np.asarray(verdict, object))
    counted = known.groupby(audit["stratum"])
    return (counted.transform("size") / counted.transform("sum").clip(lower=1)).where(known).rename("weight")


def audit_plan(
    audit: pd.DataFrame, *, agreements: Sequence[int] = (25, 50, 100, 200, 400), level: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """What an audit costs and buys, before anyone looks: `agreements`, `pictures` to review, `width` in points.

    Taken to be right are ½ of disagreements, 0.9 of suspicious and 0.99 of other agreements, 0.9 of those reviewed
    before. Sizes beyond the agreements there are come once.

    Args:
        audit: as from `draw_audit`.
        agreements: sample sizes to compare.
        level: of the interval.
        seed: of its draws.
    """
    share = np.array([0.9, 0.5, 0.9, 0.99])  # of STRATA
    rows = []
    for n in agreements:
        larger = enlarge_audit(audit.drop(columns="picked"), agreements=n)
        size = larger["stratum"].value_counts().reindex(STRATA, fill_value=0).to_numpy(float)
        seen = larger.groupby("stratum")["picked"].sum().reindex(STRATA, fill_value=0).to_numpy(float)
        seen[0] = size[0]
        low, high = np.quantile(_stratified_draws(size, seen * share, seen, seed=seed), tails(level))
        rows.append((int(seen[2:].sum()), int(seen[1:].sum()), 100 * (high - low)))
    plan = pd.DataFrame(rows, columns=["agreements", "pictures", "width"])
    return plan.drop_duplicates("agreements", ignore_index=True)


def audited_accuracy(
    truth: Sequence[str | None],
    predicted: Sequence[str],
    audit: pd.DataFrame,
    *,
    groups: Sequence[int] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, float | int | str]:
    """Accuracy against the truth, from an audited sample of noisily labelled rows.

    Args:
        truth: (N,) class that a reviewer gave; None or NaN where nobody looked or could tell. Anything that is no
            class, such as "drop", is a verdict, too: no prediction is right there.
        predicted: (N,) predicted labels.
        audit: as from `draw_audit`, in the same order.
        groups: (N,) near-duplicate group of each row.
        level: of the interval.
        seed: of its draws.

    Returns:
        As `audited_share`.
    """
    return audited_share(_same(truth, predicted), audit, groups=groups, level=level, seed=seed)


def audited_share(
    outcome: Sequence[float],
    audit: pd.DataFrame,
    *,
    among: Sequence[bool] | None = None,
    groups: Sequence[int] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, float | int | str]:
    """Share of rows with an outcome, Σ_s w_s · (share among the audited rows of stratum s), and its interval.

    Only picked rows and those reviewed before the draw count: anything looked at besides would bias the sample.

    Args:
        outcome: (N,) 1 or 0 where known, NaN where not.
        audit: as from `draw_audit`, in the same order.
        among: (N,) rows that the share is about, by something known of all rows, such as their predicted label.
        groups: (N,) near-duplicate group of each row.
        level: of the interval, which is about images like these, not only these.
        seed: of its draws.

    Returns:
        `value`, `low`, `high`, `audited` and `images` (rows), `note`, a sentence where the audit is incomplete.
    """
    outcome = np.asarray(outcome, dtype=float)
    if len(outcome) != len(audit):
        raise ValueError(f"Expected one outcome a row of the audit: {len(audit)}. Received: {len(outcome)}.")
    among = np.ones(len(outcome), bool) if among is None else np.asarray(among, dtype=bool)
    due = among & (audit["picked"] | audit["stratum"].eq(STRATA[0])).to_numpy()
    known = due & np.isfinite(outcome)
    members, stratum = group_codes(groups, len(outcome)), audit["stratum"].to_numpy()
    found = share_interval(outcome[known], members[known], among=[stratum[known] == name for name in STRATA])
    size = np.array([(among & (stratum == name)).sum() for name in STRATA], dtype=float)
    blind = [name for name, n, k in zip(STRATA, size, found.rows, strict=True) if n and not k]
    shrink = effective_count(members[among], int(among.sum()), correlation=found.correlation) / max(among.sum(), 1)
    low, high = np.quantile(_stratified_draws(size * shrink, found.hits, found.worth, seed=seed), tails(level))
    value = np.nan if blind or not among.any() else float((size * np.nan_to_num(found.value)).sum() / size.sum())
    low, high = np.fmin(low, value), np.fmax(high, value)  # ½ a hit and ½ a miss keep draws off 0 and 1
    notes = [f"{(due & ~known).sum():,} picked images have no verdict yet."] if (due & ~known).any() else []
    notes += [f"No image was audited in: {', '.join(blind)}."] if blind else []
    return {
        "value": value, "low": float(low), "high": float(high), "audited": int(known.sum()),
        "images": int(among.sum()), "note": " ".join(notes),
    }  # fmt: skip


def audited_label_errors(
    truth: Sequence[str | None],
    labels: Sequence[str],
    audit: pd.DataFrame,
    *,
    class_names: Sequence[str],
    groups: Sequence[int] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Share of wrong labels: over all, of each class, and of each pair seen; arguments as in `audited_accuracy`.

    Returns:
        One row a share: `label` ("" for all), `truth` ("" for any other class), and the columns of `audited_share`.
    """
    labels, truth = np.asarray(labels, dtype=object), np.asarray(truth, dtype=object)
    wrong = 1 - _same(truth, labels)
    kinds = [("", "", wrong, None)]
    kinds += [(name, "", wrong, labels == name) for name in class_names]
    seen = (wrong == 1) & (audit["picked"] | audit["stratum"].eq(STRATA[0])).to_numpy()
    pairs = sorted({(a, b) for a, b in zip(labels[seen], truth[seen], strict=True)})
    kinds += [(a, b, np.where(np.isnan(wrong), np.nan, truth == b), labels == a) for a, b in pairs]
    return pd.DataFrame([
        {"label": a, "truth": b} | audited_share(outcome, audit, among=rows, groups=groups, level=level, seed=seed)
        for a, b, outcome, rows in kinds
    ])  # fmt: skip


def audited_confusion(
    truth: Sequence[str | None],
    predicted: Sequence[str],
    audit: pd.DataFrame,
    *,
    class_names: Sequence[str],
    groups: Sequence[int] | None = None,
    level: float = 0.95,
) -> tuple[np.ndarray, np.ndarray]:
    """Estimated confusion matrix against the truth: (K, K) numbers of images, and (K, K, 2) intervals of row shares.

    Images whose truth is no class are not in it: the sum is the estimated number of those that have one. Each audited
    row stands for the rows of its stratum and predicted label that it was drawn from; intervals are Jeffreys' on
    Kish's effective count. Arguments as in `audited_accuracy`.
    """
    truth = np.asarray(truth, dtype=object)
    counts = (audit["picked"] | audit["stratum"].eq(STRATA[0])).to_numpy() & ~pd.isna(truth)
    predicted = np.asarray(predicted, dtype=object)
    weight = np.zeros(len(truth))
    weight[counts] = _audit_weights(audit["stratum"].to_numpy(), predicted, counts)
    counts &= np.isin(truth.astype(str), list(class_names))
    weight = weight[counts]
    rows, columns = class_codes(truth[counts], class_names), class_codes(predicted[counts], class_names, "predictions")
    members = group_codes(groups, len(truth))[counts]
    k = len(class_names)
    matrix = np.bincount(rows * k + columns, weights=weight, minlength=k * k).reshape(k, k)
    among = [rows == i for i in range(k)]
    found = share_interval(rows == columns, members, among=among)
    alike = zip(found.worth / np.maximum(found.rows, 1), (weight[part] for part in among), strict=True)
    worth = np.array([share * w.sum() ** 2 / (w**2).sum() if len(w) else 0 for share, w in alike])
    return matrix, confusion_intervals(matrix, support=worth, level=level)


def _audit_weights(stratum: np.ndarray, predicted: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(n,) how many rows each counted row stands for; strata sum to their size as far as any of them was counted."""
    cells = pd.DataFrame({"stratum": stratum, "predicted": predicted, "counted": counts})
    cell, whole = cells.groupby(["stratum", "predicted"])["counted"], cells.groupby("stratum")["counted"]
    weight = (cell.transform("size") / cell.transform("sum").clip(lower=1)).where(cells["counted"], 0)
    covered = weight.groupby(cells["stratum"]).transform("sum").clip(lower=1e-12)
    return (weight * whole.transform("size") / covered).to_numpy()[counts]


def _stratified_draws(
    size: np.ndarray, hits: np.ndarray, seen: np.ndarray, *, draws: int = 4000, seed: int = 0
) -> np.ndarray:
    """(draws,) overall shares: strata counts by Bayesian bootstrap, shares from Beta(½ + hits, ½ + misses)."""
    rng = np.random.default_rng(seed)
    some = size > 0
    if not some.any():
        return rng.beta(0.5, 0.5, draws)  # nothing is known
    weight = rng.dirichlet(size[some], draws)
    share = rng.beta(hits[some] + 0.5, np.maximum(seen - hits, 0)[some] + 0.5, (draws, some.sum()))
    return (weight * share).sum(axis=1)


def _same(truth: Sequence[str | None], labels: Sequence[str]) -> np.ndarray:
    """1.0 where both agree, 0.0 where not, NaN where the truth is unknown."""
    truth = np.asarray(truth, dtype=object)
    return np.where(pd.isna(truth), np.nan, (truth == np.asarray(labels, dtype=object)).astype(float))
