"""What is a person asked to look at? Queues of suspects, audits, second looks, and the session that shows them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nsfwlib import runs
from nsfwlib.data import SPLITS, lot
from nsfwlib.evaluate import audit_queue, load_audit
from nsfwlib.labels import read_journal
from nsfwlib.review.opinions import QUEUE, disagreement_queue, second_queue
from nsfwlib.review.session import ReviewSession


def review_queue(issues: pd.DataFrame) -> pd.DataFrame:
    """The rows that a person may be asked about: not of `test`, with a label or a suggestion to judge.

    Unlabelled pictures come by predicted class; they count as suspects, for every one of them needs a label.
    """
    queue = issues[issues["split"].ne("test") & issues["suggested"].ne("")]
    return queue.assign(score=queue["score"].fillna(1.0))


def divided_queue(queue: pd.DataFrame, table: pd.DataFrame, *, reviewer: str, reviewers: Sequence[str]) -> pd.DataFrame:
    """The rows of `queue` that fall to `reviewer`, where each picture is looked at by one of `reviewers`.

    Near-duplicates fall to the same one. By a hash of name and picture (Thaler and Ravishankar 1998), so nobody deals
    them out, and who joins takes from each an equal part while all else stays where it was.

    Raises:
        ValueError: `reviewer` is none of `reviewers`.
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


def open_session(
    run_dir: Path,
    journal: Path,
    *,
    mode: str = "review",
    share: float = 0.1,
    control_every: int = 0,
    reviewers: Sequence[str] = (),
    **options: Any,
) -> ReviewSession:
    """The session that a reviewer's page shows, from what notebook 03 left in the run.

    Args:
        run_dir: holds `images.parquet`, `label_issues.parquet`, `pred_probs.parquet` and the frozen audits.
        journal: the decisions journal.
        mode: as of `ReviewSession`, and so are `control_every`, for mode "review", and other options.
        share: of what others decided, for mode "second".
        reviewers: who share the work of modes "review" and "audit", see `divided_queue`; nobody: all is shown.
    """
    table = runs.read_table(run_dir, "images.parquet", made_by="01_explore_data")
    table = table[table["problem"].eq("") & table["split"].ne("")].reset_index(drop=True)
    made_by = "03_cleanse_labels"
    probs = runs.read_table(run_dir, "pred_probs.parquet", made_by=made_by).set_index("path")
    options |= {"class_names": list(probs.columns), "images": table, "mode": mode}
    if mode == "second":
        queue = second_queue(table, read_journal(journal), reviewer=options.get("reviewer", ""), share=share)
    elif mode == "disagreement":
        queue = disagreement_queue(table, read_journal(journal))
    elif mode == "audit":
        frozen = [load_audit(run_dir, split) for split in SPLITS]
        queues = [audit_queue(audit) for audit in frozen if audit is not None]
        queue = pd.concat(queues or [pd.DataFrame(columns=QUEUE)], ignore_index=True)
    else:
        queue = review_queue(runs.read_table(run_dir, "label_issues.parquet", made_by=made_by))
    if reviewers and mode in ("audit", "review"):
        queue = divided_queue(queue, table, reviewer=options.get("reviewer", ""), reviewers=reviewers)
    if mode == "review":
        options |= {"pred_probs": probs.loc[queue["path"]].to_numpy(), "control_every": control_every}
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
    known = table.loc[queue.index, ["sha256", "split", "group"]]
    return queue.join(known).sort_values("score", ascending=False).rename_axis("path").reset_index()
