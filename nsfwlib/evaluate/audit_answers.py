"""What did reviewers answer in an audit, how exact is that by now, and what does it say? Read from the journal.

Only what was answered blind, in the audit, counts: who has seen a label tends to confirm it. `audit_files` has the
sample, `audited` the estimates.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nsfwlib.evaluate.audited import audited_accuracy, audited_share, judged
from nsfwlib.evaluate.intervals import share_interval
from nsfwlib.evaluate.weigh import at_any_time
from nsfwlib.labels import current_labels, read_journal, standing


def verdicts(lines: pd.DataFrame, class_names: Sequence[str]) -> pd.DataFrame:
    """The last line of each picture that says a class, or "drop", in `answer`; unsure and escalated ones have none."""
    last = lines.drop_duplicates("sha256", keep="last")
    last = last.assign(answer=last["decision"].mask(last["decision"].eq("keep"), last["given_label"]))
    return last[last["answer"].isin([*class_names, "drop"])].set_index("sha256")


def audit_truth(audit: pd.DataFrame, journal: Path, *, class_names: Sequence[str]) -> pd.Series:
    """The blind answer on each row of the audit, None where there is none; "drop" where a picture has no class.

    A picture to drop has no right answer: it counts against the model's accuracy, and its label as an error. Before
    answers to audits had a kind of their own in the journal, they were the decisions for which nothing was shown.
    """
    found = audit["sha256"].map(blind_answers(journal, class_names)["answer"]).astype(object)
    return found.where(found.notna(), None)


def blind_answers(journal: Path, class_names: Sequence[str]) -> pd.DataFrame:
    """As `verdicts`, of what was answered in audits: nothing of the picture but itself was shown."""
    lines = standing(read_journal(journal), "audit", "decision")
    unseen = lines["suggested"].eq("") & lines["score"].isna() & lines["decision"].ne("keep")
    return verdicts(lines[lines["kind"].eq("audit") | unseen], class_names)


def second_looks(audit: pd.DataFrame, journal: Path, *, class_names: Sequence[str]) -> tuple[float, float, int] | None:
    """How many blind second looks by somebody else agreed with the audit's answers, of how many, and of how many
    classes; counts of independent pictures. None before there is one.
    """
    first = blind_answers(journal, class_names)
    looks = standing(read_journal(journal), "second")
    looks = looks[looks["sha256"].isin(audit.loc[audit["picked"], "sha256"]) & looks["sha256"].isin(first.index)]
    looks = looks[looks["reviewer"].ne(looks["sha256"].map(first["reviewer"]))]
    second = verdicts(looks, class_names)["answer"]
    if second.empty:
        return None
    group = second.index.map(audit.drop_duplicates("sha256").set_index("sha256")["group"])
    same = share_interval(second.eq(first["answer"][second.index]).to_numpy(), group)
    return float(same.hits), float(same.worth), len(class_names)


def audit_accuracies(
    audit: pd.DataFrame,
    verdict: pd.Series,
    *,
    labels: Sequence[str] | None = None,
    planted: Sequence[str] | None = None,
    agreed: tuple[float, float, int] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Accuracy as the labels have it, as the audit has it, and where it is known the true one: for `plot_intervals`.

    Args:
        audit: as from `load_audit`.
        verdict: as from `audit_truth`.
        labels: (N,) given labels; those at the time of the draw by default.
        planted: (N,) true class of every row, known for the demo alone; counted, so without an interval.
        agreed: as from `second_looks`: a line more, with the reviewers' own slips taken out.
        seed: of the interval's draws.

    Returns:
        `name`, `value`, `low`, `high`, `pictures` (looked at), `note`. Where pictures were unsure, escalated or hidden,
        a line has the interval that holds whatever they are.
    """
    predicted = audit["predicted"].to_numpy(object)
    given = np.asarray(audit["label"] if labels is None else labels, dtype=object)
    believed = share_interval(given == predicted, audit["group"])
    rows = [{"name": "believing the labels", "value": believed.value, "low": believed.low, "high": believed.high}]
    found = audited_accuracy(verdict, predicted, audit, seed=seed)
    rows.append({"name": "audited", "pictures": found["audited"]} | found)
    if found["worst_low"] < found["low"] or found["worst_high"] > found["high"]:
        worst = {"low": found["worst_low"], "high": found["worst_high"], "note": "whatever the unsure pictures are"}
        rows.append(rows[-1] | {"name": "audited, at worst and at best"} | worst)
    if agreed is not None:
        cleared = audited_accuracy(verdict, predicted, audit, agreed=agreed, seed=seed)
        note = f"if reviewers' slips are independent; {agreed[1]:.0f} second looks"
        rows.append({"name": "audited, slips taken out", "pictures": cleared["audited"]} | cleared | {"note": note})
    if planted is not None:
        value = float((np.asarray(planted, dtype=object) == predicted).mean())
        rows.append({"name": "planted truth", "value": value, "low": value, "high": value})
    table = pd.DataFrame(rows, columns=["name", "value", "low", "high", "pictures", "note"])
    return table.fillna({"note": "", "pictures": 0}).astype({"pictures": int})


def audit_progress(audit: pd.DataFrame | None, verdict: pd.Series | None) -> str:
    """How far an audit is, in a sentence; what to do where there is none."""
    if audit is None or verdict is None:
        return "No audit has been drawn: notebook 03 does it after 02, so that accuracy need not believe the labels."
    due, seen = int(audit["picked"].sum()), int((audit["picked"] & verdict.notna()).sum())
    begin = "" if seen else " No audit has been done yet: notebook 03 has it in its grid."
    return f"{seen:,} of {due:,} pictures of the audit have a verdict; it stands for {len(audit):,}.{begin}"


def audit_width(
    frozen: Mapping[str, pd.DataFrame | None], journal: Path, *, class_names: Sequence[str], wish: float
) -> str:
    """How exact audits are by now, in a sentence: intervals that hold whenever one stops (see `at_any_time`).

    Never the estimate: who sees it and goes on until it is pleasant biases it. About the labels for an audit of
    `train`, else about the predictions; `wish` in points more or less. Splits without an audit are left out.
    """
    said = []
    for split, audit in frozen.items():
        if audit is None:
            continue
        verdict = audit_truth(audit, journal, class_names=class_names)
        seen, due = int((audit["picked"] & verdict.notna()).sum()), int(audit["picked"].sum())
        if not seen:
            said.append(f"{split}: {due:,} pictures to look at; wish ±{wish:g} points")
            continue
        found = audited_accuracy(verdict, audit["label" if split == "train" else "predicted"], audit)
        half = 50 * at_any_time(found["high"] - found["low"], seen, due)
        more = int(np.ceil(seen * ((half / wish) ** 2 - 1)))
        rest = f"about {more:,} more" if more > 0 else "done"
        said.append(f"{split}: ±{half:.1f} points after {seen:,} looks; wish ±{wish:g}: {rest}")
    return " · ".join(said)


def label_errors(audit: pd.DataFrame, given: pd.Series, journal: Path, *, class_names: Sequence[str]) -> pd.DataFrame:
    """Share of wrong labels, over all, by class and by pair, as an audit has it: for `plots.plot_intervals`.

    Args:
        audit: as from `draw_audits`.
        given: labels to judge, indexed by path.
        journal: holds the verdicts.
        class_names: the classes.

    Returns:
        One row a share: `name`, `label` ("" for all), `truth` ("" for any other class, "drop" for none), and the
        columns of `evaluate.audited_share`. Pairs are those seen in the sample.
    """
    verdict = audit_truth(audit, journal, class_names=class_names)
    labels = audit["path"].map(given)
    known, seen = verdict.notna(), audit["picked"] & verdict.notna() & verdict.ne(labels)
    pairs = sorted(set(zip(labels[seen], verdict[seen], strict=True)))
    rows = []
    for label, truth in [("", ""), *((name, "") for name in class_names), *pairs]:
        outcome = verdict.eq(truth) if truth else verdict.ne(labels)
        expected = judged(audit, [truth] * len(audit)) if truth else 1 - judged(audit, labels)
        among = labels.eq(label) if label else None
        name = f"{label} → {truth}" if truth else label or "all labels"
        found = audited_share(outcome.astype(float).where(known), audit, expected=expected, among=among)
        rows.append({"name": name, "label": label, "truth": truth} | found)
    return pd.DataFrame(rows)


def errors_left(
    audit: pd.DataFrame | None, table: pd.DataFrame, journal: Path, *, class_names: Sequence[str]
) -> dict[str, Any]:
    """How many labels of an audited split are still wrong: `value`, `low`, `high`, `corrected`, and a `sentence`.

    What the audit says was wrong as filed, less what has been corrected since; both count every picture of the split.
    Each correction is taken to be right: a wrong one is an error that this does not see.
    """
    unknown = {"value": np.nan, "sentence": "label errors left: unknown before the audit of train is answered"}
    if audit is None:
        return unknown
    given = table.set_index("path")["given_label"][audit["path"]]
    held = audited_accuracy(audit_truth(audit, journal, class_names=class_names), given, audit)
    if np.isnan(held["value"]):
        return unknown
    current = current_labels(table, journal).set_axis(table["path"])[audit["path"]]
    corrected = int(current.fillna("").ne(given).sum())
    ends = {"value": "value", "low": "high", "high": "low"}  # of errors, by that of right labels
    left = {name: max(0, round((1 - held[end]) * len(audit)) - corrected) for name, end in ends.items()}
    said = f"label errors left in {audit['split'].iloc[0]}: {left['value']:,} ({left['low']:,}–{left['high']:,})"
    return left | {"corrected": corrected, "sentence": said}
