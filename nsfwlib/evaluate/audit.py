"""Which pictures does a person look at so that a number need not believe noisy labels, and what do the answers say?

Believing noisy labels makes a good model look bad, reviewing only its disagreements makes it look too good. The way
out is a random sample with chances that are known: high where the answer is open, low where it is nearly sure
(Neyman, 1934). Each answered row then stands for as many as its chance says; `intervals.weigh` makes numbers of them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from nsfwlib.evaluate.confusion import class_codes
from nsfwlib.evaluate.intervals import Names, mean_scores, share_interval, weigh
from nsfwlib.evaluate.reviewers import Slips, without_slips
from nsfwlib.labels import group_codes

JUDGE = r"^P\("  # columns of an audit that hold the judge's probabilities of the classes, "P(<class>)"
STRATA = ("reviewed before", "disagreement", "suspicious agreement", "agreement", "reviewed disagreement")
ALL = "all"  # the one stratum of an audit whose rows all have the same chance
# of answers, whatever a judge says
LEAST_SPREAD = dict.fromkeys((*STRATA, ALL), 0.1) | dict.fromkeys((STRATA[1], STRATA[4]), 0.3)
Truth = Sequence[str | None]  # (N,) class that a reviewer gave; None or NaN where nobody looked or could tell


def draw_audit(
    labels: Names,
    predicted: Names,
    pred_probs: np.ndarray,
    *,
    class_names: Names,
    budget: int = 100,
    reviewed: Sequence[bool] | None = None,
    even: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """Which rows a person has to look at so that accuracy can be estimated without bias.

    Strata are what was reviewed before, by whether label and prediction disagree, and of the rest disagreements, the
    most suspicious fifth of the agreements and the others. Each gets its part of the `budget` of looks by its size and
    how open its answers are: where looks are many, that is all disagreements. Draw once per model, before anyone looks.

    Args:
        labels: (N,) as they are, like the `predicted` ones.
        pred_probs: (N, K) of a judge that saw none of these labels; kept as the control of the estimates.
        reviewed: (N,) rows that somebody decided before, not blind.
        even: give every row the same chance, in one stratum ALL. Thresholds that are to be promised want that: a bound
            must allow for each heavy row being wrong, so that looks spent on disagreements, or near the threshold, keep
            fewer wishes (`benchmarks/honest_thresholds.py`, 400 looks).

    In input order come `label`, `predicted`, `stratum` (one of STRATA, or ALL), `order` (random place within it, from
    0), `picked`, and `P(<class>)`, the judge's probabilities with the label as one witness more. Review picked rows in
    the order of `order`: where a person stops early, those seen are still a random sample.
    """
    columns = [f"P({name})" for name in class_names]
    audit = pd.DataFrame({"label": np.asarray(labels, object), "predicted": np.asarray(predicted, object)})
    probs, codes = np.reshape(pred_probs, (len(audit), len(columns))), pd.Index(class_names).get_indexer(audit["label"])
    audit[columns] = _with_label(probs, codes)
    known = np.zeros(len(audit), bool) if reviewed is None else np.asarray(reviewed, dtype=bool)
    apart = audit["label"].ne(audit["predicted"]).to_numpy()
    stratum = np.select([known & apart, known, apart], [STRATA[4], STRATA[0], STRATA[1]], STRATA[3]).astype(object)
    agree = np.flatnonzero(~apart & ~known)
    stratum[agree[np.argsort(judged(audit, audit["label"])[agree], kind="stable")][: round(len(agree) / 5)]] = STRATA[2]
    audit["stratum"] = np.full(len(audit), ALL, dtype=object) if even else stratum
    order = pd.Series(np.random.default_rng(seed).permutation(len(audit)))
    return enlarge_audit(audit.assign(order=order.groupby(audit["stratum"]).rank().astype(int) - 1), budget=budget)


def _with_label(probs: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """(N, K) probabilities by a judge (N, K) that saw no label and by labels wrong at one rate, fitted to both (EM)."""
    k, rate, joint = probs.shape[1], 0.1, probs
    given = np.eye(k + 1)[codes, :k]
    for _ in range(8 if len(probs) else 0):
        joint = np.clip(probs, 1e-6, 1) * np.where(given, 1 - rate, rate / max(k - 1, 1))
        joint /= joint.sum(axis=1, keepdims=True)
        rate = np.clip(1 - (joint * given).sum(axis=1).mean(), 1e-3, 0.5)
    return joint.astype(np.float32)


def enlarge_audit(audit: pd.DataFrame, *, budget: int) -> pd.DataFrame:
    """The same audit with so many picked; what was picked stays picked, strata and order stay as they were."""
    chance = pd.Series(judged(audit, audit["predicted"]), audit.index)
    spread = (chance * (1 - chance)).groupby(audit["stratum"]).mean().pow(0.5)
    quota = allocated(audit["stratum"].value_counts(), spread.clip(lower=spread.index.map(LEAST_SPREAD)), budget)
    return audit.assign(picked=audit["order"].lt(audit["stratum"].map(quota)) | audit.get("picked", False))


def allocated(size: pd.Series, spread: pd.Series, budget: int) -> pd.Series:
    """Neyman's allocation of the budget; no stratum gets more than its rows, and each a twentieth where it has them."""
    quota, want = 0 * size, size * spread
    for _ in size:
        full = quota.ge(size)
        left = max(budget - size[full].sum(), 0)
        quota = size.where(full, np.minimum(want * left / max(want[~full].sum(), 1e-9), size))
    return quota.round().clip(lower=np.minimum(size, max(2, budget // 20))).astype(int)


def audited_rows(audit: pd.DataFrame, verdict: Truth, *, class_names: Names) -> pd.DataFrame:
    """Verdicts of an audit (`audit_truth`) by path: `label`, `group`, and `weight`, how many rows each stands for.

    The weight is 1 / the chance to be answered: in every stratum they sum to its rows, so weighted sums over answered
    rows estimate sums over all (Horvitz and Thompson, A Generalization of Sampling Without Replacement From a Finite
    Universe, 1952). It is 0 where nobody answered or the picture belongs to no class.
    """
    label = pd.Series(verdict, index=audit.index, dtype=object)
    known = (audit["picked"] & label.notna()).groupby(audit["stratum"])
    weight = known.transform("size") / known.transform("sum").clip(lower=1)
    weight = weight.where(audit["picked"] & label.isin(list(class_names)), 0.0)
    return pd.DataFrame({"label": label, "group": audit["group"], "weight": weight}).set_axis(audit["path"])


def audit_costs(
    frozen: Mapping[str, pd.DataFrame], *, budgets: Sequence[int] = (50, 100, 200, 400, 800), seed: int = 0
) -> pd.DataFrame:
    """What audits of a model's accuracy cost and buy, by split: `pictures`, `width` of the interval in points.

    Before anyone looks: answers are imagined, from `seed`, as the judge expects them, alike within near-duplicate
    groups, and weighed as real ones are. `budgets` are sizes to compare; those beyond the rows there are come once.
    """
    rows = {}
    for split, audit in ((split, audit) for split, audit in frozen.items() if split != "train"):
        members, chance = group_codes(audit.get("group"), len(audit)), judged(audit, audit["predicted"])
        dice = np.random.default_rng(seed).random((5, members.max(initial=-1) + 1))[:, members] < _foreseen(audit)
        for budget in budgets:
            larger = enlarge_audit(audit.assign(picked=False), budget=budget)
            answers = np.where(larger["picked"], dice, np.nan)
            drawn = [audited_share(one, larger, expected=chance, seed=seed) for one in answers]
            rows[split, int(larger["picked"].sum())] = 100 * np.mean([found["high"] - found["low"] for found in drawn])
    costs = pd.DataFrame([(*row, width) for row, width in rows.items()], columns=["split", "pictures", "width"])
    costs["width"] = costs.iloc[::-1].groupby("split")["width"].cummax()  # by luck of the dice fewer looks buy no more
    return costs.set_index("split")


def _foreseen(audit: pd.DataFrame) -> np.ndarray:
    """(N,) chance that a prediction is right, as `judged`; where a label contradicts it the model is a witness, too."""
    right, label = (np.clip(judged(audit, audit[name]), 1e-6, 1 - 1e-6) for name in ("predicted", "label"))
    wrong, others = np.clip(1 - label.mean(), 1e-3, 0.5), max(audit.filter(regex=JUDGE).shape[1] - 1, 1)
    apart, share = audit["label"].ne(audit["predicted"]).to_numpy(), 0.5
    lead = np.log(right / label * others * (1 - wrong) / wrong)  # by the judge alone: the label is no witness
    for _ in range(30 if apart.any() else 0):
        share = np.clip(expit(logit(share) + lead[apart]).mean(), 0.005, 0.995)
    # half-way to the fitted odds, which take judge and model for independent: they err alike
    return np.where(apart, expit((logit(right) + logit(share) + lead) / 2), right)


def audited_share(
    outcome: Sequence[float],
    audit: pd.DataFrame,
    *,
    expected: np.ndarray,
    among: Sequence[bool] | None = None,
    slips: Slips | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Share of rows with an outcome, from the answered rows of an audit.

    Only picked rows count: anything looked at besides would bias the sample. Rows without an answer that came before
    an answered one of their stratum were unsure, escalated or hidden, or the other was answered in another run's audit.
    They are hardly a random part, so the interval, which leaves them out, comes with one that holds whatever they are.
    All intervals are of 95 %, and about images like these, not only these.

    Args:
        outcome: (N,) 1 or 0 where known, NaN where not.
        audit: as from `draw_audit`; with a column `group` near-duplicates count as what they are.
        expected: (N,) probability of the outcome, as the judge has it.
        among: (N,) rows that the share is about, by something known of all rows, such as their predicted label.
        slips: as from `second_looks`, where wrong answers are to be taken out.

    Keys: `value`, `low`, `high`; `worst_low` and `worst_high`, whatever the unsure rows are; `audited` and `images`
    (rows), `note`, a sentence where the audit is incomplete.
    """
    y = np.asarray(outcome, dtype=float)
    if len(y) != len(audit):
        raise ValueError(f"Expected one outcome a row of the audit: {len(audit)}. Received: {len(y)}.")
    among = np.ones(len(y), bool) if among is None else np.asarray(among, dtype=bool)
    due = audit["picked"].to_numpy(bool) & among
    y = np.where(due, y, np.nan)
    reached = audit["order"].where(np.isfinite(y)).groupby(audit["stratum"]).transform("max").ge(audit["order"])
    unsure = due & reached.to_numpy() & np.isnan(y)
    stratum, members = audit["stratum"].to_numpy()[among], group_codes(audit.get("group"), len(y))[among]

    def bounds(values: np.ndarray) -> tuple[float, float, float]:
        found = weigh(values[among, None], stratum, expected=expected[among, None], groups=members, seed=seed)
        found = found if slips is None else without_slips(found, slips)
        return float(found.value[0]), *(float(end[0]) for end in found.interval())

    value, low, high = bounds(y)
    worst, waiting = (low, high), (due & np.isnan(y) & ~unsure).sum()
    blind = sorted(set(stratum) - set(stratum[np.isfinite(y[among])]))
    notes = [f"{waiting:,} picked images have no verdict yet."] if waiting else []
    if unsure.any():
        worst = bounds(np.where(unsure, 0.0, y))[1], bounds(np.where(unsure, 1.0, y))[2]
        why = "passed over (unsure, escalated, hidden, or not shown yet where an earlier audit answered the others)"
        notes.append(f"{unsure.sum():,} were {why}: whatever they are, it is {worst[0]:.1%} to {worst[1]:.1%}.")
    notes += [f"No image was audited in: {', '.join(blind)}. Answer more, or raise audit_sizes."] if blind else []
    return {
        "value": np.nan if blind or not among.any() else value, "low": low, "high": high, "worst_low": worst[0],
        "worst_high": worst[1], "audited": int(np.isfinite(y).sum()), "images": int(among.sum()),
        "note": " ".join(notes),
    }  # fmt: skip


def audited_accuracy(
    truth: Truth, predicted: Names, audit: pd.DataFrame, *, slips: Slips | None = None, seed: int = 0
) -> dict[str, Any]:
    """Accuracy of labels `predicted` (N,) against the truth, from an audited sample; the rest is as in `audited_share`.

    `truth` (N,) is the class that a reviewer gave; None or NaN where nobody looked or could tell. Anything that is no
    class, such as "drop", is a verdict, too: no prediction is right there.
    """
    truth = np.asarray(truth, dtype=object)
    same = np.where(pd.isna(truth), np.nan, truth == np.asarray(predicted, dtype=object))
    return audited_share(same, audit, expected=judged(audit, predicted), slips=slips, seed=seed)


def audited_confusion(
    truth: Truth, predicted: Names, audit: pd.DataFrame, *, class_names: Names, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Estimated confusion matrix against the truth: (K, K) numbers of images, and (K, K, 2) intervals of row shares.

    Images whose truth is no class are not in it: the sum is the estimated number of those that have one. Without the
    judge: fitted to the one or two answers of a rare cell it would be believed too much. Arguments: `audited_accuracy`.
    """
    k, is_true = len(class_names), _one_hot(truth, audit, class_names)
    columns = np.eye(k)[class_codes(predicted, class_names, "predictions")]
    cells = (is_true[:, :, None] * columns[:, None]).reshape(-1, k * k)
    stratum, cell = audit["stratum"], audit["stratum"] + " " + np.asarray(predicted, dtype=object)
    empty = pd.Series(np.isnan(is_true).all(axis=1), audit.index).groupby(cell).transform("all")
    strata = cell.mask(empty.groupby(stratum).transform("any"), stratum)  # by prediction, too, where all were looked at
    found = weigh(cells, strata.to_numpy(), per=np.repeat(is_true, k, axis=1), groups=audit.get("group"), seed=seed)
    matrix = len(cells) * np.clip(found.mean, 0, None).reshape(k, k)
    return matrix, np.stack(found.interval(), axis=-1).reshape(k, k, 2)


def audited_scores(
    truth: Truth, pred_probs: np.ndarray, audit: pd.DataFrame, *, class_names: Names, seed: int = 0
) -> pd.DataFrame:
    """Scores against the truth, from an audited sample: `score`, `value`, `low`, `high`; see `audited_accuracy`.

    Accuracy, balanced accuracy, macro F1 (of classes seen), Brier score, log-loss (of rows whose truth is a class).
    """
    probs, names = np.asarray(pred_probs, float), np.asarray(class_names, object)
    accuracy = audited_accuracy(truth, names[probs.argmax(axis=1)], audit, seed=seed)
    options = {"strata": audit["stratum"].to_numpy(), "groups": audit.get("group"), "seed": seed}
    judge = audit.filter(regex=JUDGE).to_numpy(float)
    others = mean_scores(_one_hot(truth, audit, class_names), probs, judge=judge, **options)
    return pd.concat([pd.DataFrame([{"score": "accuracy"} | accuracy])[list(others)], others], ignore_index=True)


def audit_accuracies(
    audit: pd.DataFrame,
    verdict: pd.Series,
    *,
    labels: Names | None = None,
    planted: Names | None = None,
    slips: Slips | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Accuracy as the labels have it, as the audit has it, and where it is known the true one: for `plot_intervals`.

    Args:
        audit: as from `load_audit`, its `verdict` from `audit_truth`.
        labels: (N,) given labels; those at the time of the draw by default.
        planted: (N,) true class of every row, known for the demo alone; counted, so without an interval.
        slips: as from `second_looks`: a line more, with the reviewers' own slips taken out.

    Columns: `name`, `value`, `low`, `high`, `pictures` (looked at), `note`. Where pictures were unsure, escalated or
    hidden, a line has the interval that holds whatever they are.
    """
    predicted = audit["predicted"].to_numpy(object)
    given = np.asarray(audit["label"] if labels is None else labels, dtype=object)
    found = audited_accuracy(verdict, predicted, audit, seed=seed)
    rows = {"believing the labels": share_interval(given == predicted, audit["group"])._asdict(), "audited": found}
    if found["worst_low"] < found["low"] or found["worst_high"] > found["high"]:
        worst = {"low": found["worst_low"], "high": found["worst_high"], "note": "whatever the unsure pictures are"}
        rows["audited, at worst and at best"] = found | worst
    if slips is not None:
        note = {"note": f"if reviewers' slips are independent; {slips.pictures:,} second looks"}
        rows["audited, slips taken out"] = audited_accuracy(verdict, predicted, audit, slips=slips, seed=seed) | note
    if planted is not None:
        value = float((np.asarray(planted, dtype=object) == predicted).mean())
        rows["planted truth"] = dict.fromkeys(("value", "low", "high"), value)
    table = pd.DataFrame(rows.values()).assign(name=list(rows)).rename(columns={"audited": "pictures"})
    table = table.fillna({"note": "", "pictures": 0}).astype({"pictures": int})
    return table[["name", "value", "low", "high", "pictures", "note"]]


def judged(audit: pd.DataFrame, names: Names) -> np.ndarray:
    """(N,) how likely each row is of the class named, as the judge has it that is frozen with the audit."""
    probs = audit.filter(regex=JUDGE)
    codes = probs.columns.get_indexer([f"P({name})" for name in names])
    return np.where(codes < 0, 0.0, probs.to_numpy(float)[np.arange(len(probs)), codes])


def _one_hot(truth: Truth, audit: pd.DataFrame, class_names: Names) -> np.ndarray:
    """(N, K) 1 where the truth of a picked row is this class; rows of 0 where it is none, of NaN where unknown."""
    truth = np.asarray(truth, dtype=object)
    known = audit["picked"].to_numpy(bool) & ~pd.isna(truth)
    return np.where(known[:, None], truth[:, None] == np.asarray(class_names, dtype=object), np.nan)
