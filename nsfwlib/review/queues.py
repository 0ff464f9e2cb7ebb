"""What is a person asked to look at? Queues of suspects, audits, second looks, and the session that shows them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nsfwlib import runs
from nsfwlib.data import SPLITS, lot
from nsfwlib.evaluate import audit_queue, load_audit, share_interval
from nsfwlib.labels import LABELLING, read_journal, standing
from nsfwlib.review.opinions import QUEUE, disagreement_queue, second_queue
from nsfwlib.review.session import KNOWN, ReviewSession


def review_queue(issues: pd.DataFrame) -> pd.DataFrame:
    """The rows that a person may be asked about: not of `test`, with a label or a suggestion to judge.

    Unlabelled pictures come by predicted class, first of all, for every one of them needs a label; the least sure
    lead, which is the order of ActiveLab (Goh and Mueller 2023) where nobody has answered yet.
    """
    queue = issues[issues["split"].ne("test") & issues["suggested"].ne("")]
    return queue.assign(score=queue["score"].fillna(1 - queue["p_suggested"] / 10).fillna(1.0))


def divided_queue(queue: pd.DataFrame, table: pd.DataFrame, *, reviewer: str, reviewers: Sequence[str]) -> pd.DataFrame:
    """The rows of `queue` that fall to `reviewer`, where each picture is looked at by one of `reviewers`.

    Near-duplicates fall to the same one. By a hash of name and picture (Thaler and Ravishankar 1998), so nobody deals
    them out, and who joins takes from each an equal part while all else stays where it was. A ValueError if `reviewer`
    is none of them.
    """
    if reviewer not in reviewers:
        raise ValueError(f"reviewer should be one of those who share the work, {[*reviewers]}. Received: {reviewer!r}")
    first = queue["group"].map(table.groupby("group")["sha256"].min())
    return queue[[max(reviewers, key=lambda name: lot("whose", name, sha256)) == reviewer for sha256 in first]]


def what_review_cost(session: ReviewSession) -> pd.Series:
    """Work done and what it found: pictures, errors found, minutes, errors a minute; what is left an audit says."""
    progress = session.progress()
    minutes, found = progress["seconds"] / 60, progress["errors_found"]
    cost = {"pictures decided": progress["decided"], "errors found": found, "minutes": round(minutes, 1)}
    return pd.Series({**cost, "errors found a minute": round(found / minutes, 1) if minutes else float("nan")})


def with_known(
    queue: pd.DataFrame, lines: pd.DataFrame, share: float, *, reviewer: str
) -> tuple[pd.DataFrame, list[str]]:
    """The review queue with pictures that an audit has answered among the open ones, and the sha256 of these.

    They are as many as `share` of what nobody has decided, if `reviewer` has not yet answered so many; drawn by a hash.
    Each is shown under the label that it was filed under, and spread evenly over the places of the open ones.
    """
    queue = queue.reset_index(drop=True)
    audited = standing(lines, "audit").drop_duplicates("sha256", keep="last").set_index("sha256")
    audited = audited[~audited["decision"].isin(["unsure", "escalate"]) & audited["given_label"].ne("")]
    said = standing(lines, *LABELLING, KNOWN)["sha256"]
    places = queue.loc[~queue["sha256"].isin(said), "score"].sort_values(ascending=False)
    answered = standing(lines, KNOWN).query("reviewer == @reviewer")["sha256"]
    choice = queue.loc[queue["sha256"].isin(audited.index.difference(answered)), "sha256"].drop_duplicates()
    chosen = sorted(choice.index, key=lambda row: lot(KNOWN, choice[row]))[: round(share * len(places))]
    rows = queue.loc[chosen]
    filed = rows["sha256"].map(audited["given_label"])
    rows["suggested"] = rows["suggested"].mask(rows["suggested"].eq(filed), rows["given"])
    rows["given"], rows["score"] = filed, places.iloc[np.linspace(0, len(places) - 1, len(rows)).astype(int)].to_numpy()
    return pd.concat([queue.drop(chosen), rows]).sort_index(), rows["sha256"].tolist()


def known_answers(lines: pd.DataFrame, *, images: pd.DataFrame) -> pd.DataFrame:
    """How often reviewers gave hidden pictures the answer of the audit: a row a reviewer and kind of label.

    From the lines of a journal and the images table, for near-duplicate groups. Columns: `reviewer`, `labels` ("all";
    "wrong": the label shown was not the answer; "right"), `pictures`, `own` (of these, answered in the audit by the
    same person: they tell how steady one is), `accuracy` with its 95 % interval, `low` and `high`.
    """
    said = standing(lines, KNOWN).drop_duplicates(["sha256", "reviewer"], keep="last")
    truth = standing(lines, "audit").drop_duplicates("sha256", keep="last")[["sha256", "decision", "reviewer"]]
    said = said[~said["decision"].isin(["unsure", "escalate"])].merge(truth, on="sha256", suffixes=("", "_audit"))
    answer, own = said["decision"].mask(said["decision"].eq("keep"), said["given_label"]), said["reviewer_audit"]
    right, names = said["given_label"].eq(said["decision_audit"]), said["reviewer"]
    kinds = {"all": right | True, "wrong": ~right, "right": right}
    parts = {(who, kind): names.eq(who) & of for who in names.unique() for kind, of in kinds.items()}
    groups = said["sha256"].map(images.drop_duplicates("sha256").set_index("sha256")["group"])
    found = share_interval(answer.eq(said["decision_audit"]).to_numpy(), groups, among=parts.values())
    table = pd.DataFrame([*parts], columns=["reviewer", "labels"]).assign(pictures=found.rows)
    table["own"] = [int((of & own.eq(who)).sum()) for (who, _), of in parts.items()]
    return table.assign(accuracy=found.value, low=found.low, high=found.high)


def open_session(
    run_dir: Path,
    journal: Path,
    *,
    mode: str = "review",
    share: float = 0.1,
    control_every: int = 0,
    reviewers: Sequence[str] = (),
    known: float = 0.03,
    **options: Any,
) -> ReviewSession:
    """The session that a reviewer's page shows, from what notebook 03 left in the run.

    Args:
        run_dir: holds `images.parquet`, `label_issues.parquet`, `pred_probs.parquet` and the frozen audits.
        journal: the decisions journal.
        mode: as of `ReviewSession`, and so are `control_every`, for mode "review", and other options.
        share: of what others decided, for mode "second".
        reviewers: who share the work of modes "review" and "audit", see `divided_queue`; nobody: all is shown.
        known: for mode "review", how many pictures with an answer of an audit come again, hidden, as a share of those
            that nobody has decided; see `with_known` and `known_answers`.
    """
    table = runs.read_table(run_dir, "images.parquet", made_by="01_explore_data")
    table = table[table["problem"].eq("") & table["split"].ne("")].reset_index(drop=True)
    probs = runs.read_table(run_dir, "pred_probs.parquet", made_by="03_cleanse_labels").set_index("path")
    options |= {"class_names": list(probs.columns), "images": table, "mode": mode}
    if mode == "second":
        queue = second_queue(table, read_journal(journal), reviewer=options.get("reviewer", ""), share=share)
    elif mode == "disagreement":
        queue = disagreement_queue(table, read_journal(journal))
    elif mode == "audit":
        queues = [audit_queue(audit) for split in SPLITS if (audit := load_audit(run_dir, split)) is not None]
        queue = pd.concat(queues or [pd.DataFrame(columns=QUEUE)], ignore_index=True)
    else:
        queue = review_queue(runs.read_table(run_dir, "label_issues.parquet", made_by="03_cleanse_labels"))
    if reviewers and mode in ("audit", "review"):
        queue = divided_queue(queue, table, reviewer=options.get("reviewer", ""), reviewers=reviewers)
    if mode == "review":
        queue, hidden = with_known(queue, read_journal(journal), known, reviewer=options.get("reviewer", ""))
        probs = probs.loc[queue["path"]].to_numpy()
        options |= {"known": hidden, "pred_probs": probs, "control_every": control_every}
    return ReviewSession(queue, journal, **options)


def flagged_queue(
    table: pd.DataFrame, score: pd.Series, *, threshold: float, least: int = 0, most: int = 480
) -> pd.DataFrame:
    """What `review.ReviewSession` shows: the files at or above the threshold, the highest scores first.

    Nobody has given these files a label: `given` is empty, `suggested` the predicted class. Copies are shown once.
    `least` of the highest of `score` (as from `unsafe_scores`) are shown even where they are below the threshold, and
    no more than `most`; the rest stays in the table.
    """
    rows = table.assign(given="", suggested=table["predicted"], score=score).dropna(subset="score")
    rows = rows.drop_duplicates("sha256").sort_values("score", ascending=False, kind="stable")
    rows = rows.head(min(most, max(least, int(rows["score"].ge(threshold).sum()))))
    return rows[["path", "sha256", "given", "suggested", "score"]].reset_index(drop=True)


def cell_queue(
    predictions: pd.DataFrame, labels: pd.DataFrame, table: pd.DataFrame, *, class_names: Sequence[str]
) -> pd.DataFrame:
    """Answers as a review queue: one row a picture, `score` = P(likeliest other class) - P(label), worst first.

    All are indexed by path: `predictions`, rows of `val` with a column a class; `labels` with the `label` in force
    (missing where the picture was dropped); `table`, the images table.
    """
    label = labels["label"].reindex(predictions.index).dropna()
    probs = predictions.loc[label.index, list(class_names)]
    own = label.to_numpy()[:, None] == np.array(class_names, object)
    others = probs.mask(own)
    queue = pd.DataFrame({"given": label, "suggested": others.idxmax(axis=1), "p_suggested": others.max(axis=1)})
    queue["p_given"] = probs.where(own).max(axis=1)
    queue["score"] = queue["p_suggested"] - queue["p_given"]
    queue = queue.join(table[["sha256", "split", "group"]]).sort_values("score", ascending=False)
    return queue.rename_axis("path").reset_index()
