"""Do reviewers agree, and who decides where they do not? Second looks, Cohen's kappa, disagreements.

A share of what one person decided is shown to another one blind (`second_queue`). Only such answers say how far
people agree: who sees a decision and leaves it has not judged. Where two answers differ, somebody resolves it
(`disagreement_queue`). Until then the label in force is as before, by the one rule of `journal`.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from nsfwlib.data import lot
from nsfwlib.evaluate import cohens_kappa, reviewer_accuracies, share_interval
from nsfwlib.labels import LABELLING, standing

AUDIT_LOOKS = 60  # second looks at the audit of each split: they tell a reviewer's error rate to some points
WHO = ("sha256", "reviewer")  # of whom there is one answer
QUEUE = ("path", "sha256", "given", "suggested", "score", "group", "split")


def standing_opinions(lines: pd.DataFrame, images: pd.DataFrame | None = None) -> pd.DataFrame:
    """Independent answers on pictures that somebody saw a second time: `sha256`, `reviewer`, `answer`, `group`.

    From the lines of a journal (as from `labels.read_journal`): each reviewer's last second look, and before them the
    decision that stood when the first of these looks was taken. "keep" counts as the label it confirmed; unsure is
    no answer. A reviewer who looks at an own decision again is no second one.
    """
    firsts, looks = standing(lines, *LABELLING), standing(lines, "second")
    seen_at = pd.Series(looks.index, looks["sha256"]).groupby(level=0).min()
    firsts = firsts[firsts.index < firsts["sha256"].map(seen_at)]
    firsts, looks = firsts.drop_duplicates("sha256", keep="last"), looks.drop_duplicates([*WHO], keep="last")
    answers = pd.concat([firsts, looks]).drop_duplicates([*WHO])
    answers["answer"] = answers["decision"].mask(answers["decision"].eq("keep"), answers["given_label"])
    answers = answers[~answers["answer"].isin(["unsure", "escalate"])].reset_index(drop=True)
    table = lines.assign(group=lines["sha256"]) if images is None else images
    group = table.drop_duplicates("sha256").set_index("sha256")["group"]
    return answers[[*WHO, "answer"]].assign(group=answers["sha256"].map(group))


def work_done(lines: pd.DataFrame) -> pd.DataFrame:
    """Who did how much, by the lines of a journal: a row a reviewer, with the pictures by kind, minutes and last time.

    A picture counts once a reviewer and kind, as far as the decision was not undone. `revealed` is the share that the
    reviewer saw sharp of all pictures that they decided on or saw so: where it is high, the blur is too strong.
    """
    stand = standing(lines, *LABELLING, "second", "reveal").drop_duplicates(["sha256", "reviewer", "kind"])
    table = pd.crosstab(stand["reviewer"], stand["kind"]).rename_axis(columns=None)
    of_each = stand.groupby("reviewer")
    minutes, last = of_each["seconds"].sum() / 60, of_each["time"].max()
    revealed = table.get("reveal", 0) / of_each["sha256"].nunique()
    return table.assign(revealed=revealed.round(2), minutes=minutes.round(1), last=last.dt.strftime("%F %R"))


def agreement(lines: pd.DataFrame, *, images: pd.DataFrame | None = None, seed: int = 0) -> pd.DataFrame:
    """How far reviewers agree: over all pairs of answers, and for each pair of reviewers; empty before a second look.

    Args:
        lines: of the journal, as from `labels.read_journal`.
        images: the images table, for near-duplicate groups; every picture by itself by default.
        seed: of the draws of intervals, which are of 95 %.

    One row a pair of reviewers, all of them first: `between`, `pictures` with two answers, `agree` (share) with `low`
    and `high`, Cohen's `kappa` with `kappa_low` and `kappa_high` (see `evaluate.cohens_kappa`).
    """
    answers = standing_opinions(lines, images)
    if answers.empty:
        return pd.DataFrame()
    pairs = answers.merge(answers, on=["sha256", "group"], suffixes=("", "_other")).query("reviewer < reviewer_other")
    kinds = [(" and ".join(names), rows) for names, rows in pairs.groupby(["reviewer", "reviewer_other"])]
    records = []
    for between, rows in [("all", pairs), *kinds]:
        same = share_interval(rows["answer"].eq(rows["answer_other"]).to_numpy(), rows["group"])
        share = {"agree": same.value, "low": same.low, "high": same.high}
        kappa = cohens_kappa(rows["answer"], rows["answer_other"], groups=rows["group"], seed=seed)
        records.append({"between": between, "pictures": rows["sha256"].nunique()} | share | kappa)
    return pd.DataFrame(records)


def skills(
    lines: pd.DataFrame, *, class_names: Sequence[str], images: pd.DataFrame | None = None, seed: int = 0
) -> pd.DataFrame:
    """How often each reviewer is right, as far as the others tell; arguments as in `agreement`.

    One row a reviewer: `reviewer`, `pictures` that others saw, too, `accuracy` with `low` and `high` (see
    `evaluate.reviewer_accuracies`); empty before a second look.
    """
    answers = standing_opinions(lines, images)
    if answers.empty:
        return pd.DataFrame()
    found = reviewer_accuracies(answers, classes=len(class_names), seed=seed)
    low, high = found.loc[:, 1:].quantile([0.025, 0.975], axis=1).to_numpy()
    ends = {"accuracy": found[0], "low": np.fmin(low, found[0]), "high": np.fmax(high, found[0])}
    return pd.DataFrame({"pictures": pd.Series(found.attrs["of"])} | ends).rename_axis("reviewer").reset_index()


def second_queue(
    table: pd.DataFrame, lines: pd.DataFrame, *, reviewer: str, share: float = 0.1, seed: int = 0
) -> pd.DataFrame:
    """What `reviewer` is to see a second time, for a session in mode "second": a random share of what others decided.

    And of each split's audit, `test` included, up to `AUDIT_LOOKS` answers of others: they say how far to trust it.
    Whole near-duplicate groups are drawn by a hash of their first picture: whoever asks and whenever, the same ones
    come, so the share is known before anybody decides. Pages change with every ranking and could not be kept.
    What was resolved or escalated, own decisions, and the rest of the test split stay out.

    `table` is the images table, `lines` are those of the journal; `share`, 0 … 1, is of the pictures decided in review.
    """
    last = standing(lines, *LABELLING).drop_duplicates("sha256", keep="last")
    open_to = last.query("reviewer != @reviewer and kind != 'resolution' and decision != 'escalate'")
    rows = table[table["sha256"].isin(open_to["sha256"])].drop_duplicates("sha256")
    chance = rows["group"].map(table.groupby("group")["sha256"].min()).map(lambda first: lot(seed, first))
    of_audit = rows["sha256"].isin(open_to.loc[open_to["kind"].eq("audit"), "sha256"])
    first = chance.where(of_audit).groupby(rows["split"]).rank(method="first").le(AUDIT_LOOKS)
    rows = rows[np.where(of_audit, first, (chance < share) & rows["split"].ne("test"))]
    return _as_queue(rows.assign(place=[lot(seed, "place", sha256) for sha256 in rows["sha256"]]).sort_values("place"))


def disagreement_queue(table: pd.DataFrame, lines: pd.DataFrame) -> pd.DataFrame:
    """What reviewers answered differently and nobody has resolved, for a session in mode "disagreement".

    `about` holds the answers, such as "porn / sexy"; arguments as above.
    """
    answers = standing_opinions(lines).groupby("sha256")["answer"]
    about = answers.agg(lambda given: " / ".join(sorted(set(given))))[answers.nunique() > 1]
    settled = pd.concat([standing(lines, "resolution"), standing(lines, "decision").query("decision == 'escalate'")])
    rows = table[table["split"].ne("test") & ~table["sha256"].isin(settled["sha256"])].drop_duplicates("sha256")
    rows = rows.assign(about=rows["sha256"].map(about)).dropna(subset="about").sort_values(["about", "sha256"])
    return _as_queue(rows, "about")


def _as_queue(rows: pd.DataFrame, *more: str) -> pd.DataFrame:
    rows = rows.assign(given=rows["given_label"], suggested="", score=np.nan)
    return rows[[*QUEUE, *more]].reset_index(drop=True)
