"""What is a person asked to look at? Queues of suspects, audits, second looks, and the session that shows them."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nsfwlib import runs
from nsfwlib.data import SPLITS, lot
from nsfwlib.evaluate import audit_queue, load_audit, share_interval
from nsfwlib.labels import read_journal, standing
from nsfwlib.review.opinions import QUEUE, disagreement_queue, second_queue
from nsfwlib.review.session import DROP, KEPT, RELABELLED, ReviewSession

KNOWN = "known"  # the kind of line that an answer to a hidden picture makes; it gives no label


def review_queue(issues: pd.DataFrame) -> pd.DataFrame:
    """The rows that a person may be asked about: not of `test`, with a label or a suggestion to judge.

    Unlabelled pictures come by predicted class, first of all, for every one of them needs a label; the least sure
    lead, which is the order of ActiveLab (Goh and Mueller 2023) where nobody has answered yet.
    """
    queue = issues[issues["split"].ne("test") & issues["suggested"].ne("")]
    return queue.assign(score=queue["score"].fillna(1 - queue["p_suggested"] / 10).fillna(1.0))


def what_review_cost(session: ReviewSession) -> pd.Series:
    """Work done and what it found: pictures, errors found, minutes, errors a minute; what is left an audit says."""
    progress = session.progress()
    minutes, found = progress["seconds"] / 60, progress["errors_found"]
    cost = {"pictures decided": progress["decided"], "errors found": found, "minutes": round(minutes, 1)}
    return pd.Series({**cost, "errors found a minute": round(found / minutes, 1) if minutes else float("nan")})


class HiddenKnown(ReviewSession):
    """A review in which pictures come again whose answer an audit knows, as open as all others to who reviews.

    What is said of the contents `known` is a line of kind `KNOWN`: it tells of the reviewer, and changes no label.
    """

    def __init__(self, queue: pd.DataFrame, journal: Path, *, known: Collection[str], **options: Any) -> None:
        self.known = frozenset(known)
        super().__init__(queue, journal, **options)

    def decision(self, sha256: str) -> str:
        """As of `ReviewSession`; of a known content what this reviewer said of it in review."""
        said = super().decision(sha256)
        return said if said == "escalate" or sha256 not in self.known else self._replay.decision(sha256, [KNOWN])

    def rerank(self, scores: pd.DataFrame, *, in_view: Collection[int] = ()) -> list[int]:
        """As of `ReviewSession`; what is hidden keeps its score, or its place would give it away."""
        hidden = self.queue.loc[self.queue["sha256"].isin(self.known), "path"]
        return super().rerank(scores[~scores["path"].isin(hidden)], in_view=in_view)

    def _sync(self, contents: Iterable[str]) -> None:
        super()._sync(contents)
        rows = np.array([row for sha256 in self.known for row in self._rows_of[sha256]], int)
        self._outcome[rows[np.isin(self._outcome[rows], [RELABELLED, DROP])]] = KEPT  # no error that review has found

    def _write(self, lines: list[dict[str, Any]]) -> Collection[str]:
        for line in lines:
            if line["kind"] == "decision" and line["sha256"] in self.known and line["decision"] != "escalate":
                line["kind"] = KNOWN
        return super()._write(lines)


def with_known(queue: pd.DataFrame, lines: pd.DataFrame, *, share: float, seed: int = 0) -> tuple[pd.DataFrame, list]:
    """The review queue in which some pictures that an audit has answered stand among the open ones; and their sha256.

    They are as many as `share` of the open pictures, if there are; drawn by a hash, so the same for everybody. Each is
    shown under the label that it was filed under, at the place of an open one.
    """
    queue = queue.reset_index(drop=True)
    audited = standing(lines, "audit").drop_duplicates("sha256", keep="last").set_index("sha256")
    audited = audited[~audited["decision"].isin(["unsure", "escalate"]) & audited["given_label"].ne("")]
    is_open = ~queue["sha256"].isin(lines["sha256"])
    choice = queue[queue["sha256"].isin(audited.index)].drop_duplicates("sha256")
    choice = choice.assign(lot=[lot(seed, KNOWN, sha256) for sha256 in choice["sha256"]]).sort_values("lot")
    rows = choice.index[: round(share * is_open.sum())]
    if not len(rows):
        return queue, []
    scores = queue.loc[is_open, "score"].sort_values(ascending=False).to_numpy()
    filed = queue.loc[rows, "sha256"].map(audited["given_label"])
    other = queue.loc[rows, "suggested"].mask(queue.loc[rows, "suggested"].eq(filed), queue.loc[rows, "given"])
    places = ((np.arange(len(rows)) + 0.5) * len(scores) / len(rows)).astype(int)
    queue.loc[rows, ["given", "suggested"]] = np.stack([filed, other], axis=1)
    queue.loc[rows, "score"] = scores[places]
    return queue, queue.loc[rows, "sha256"].tolist()


def known_answers(lines: pd.DataFrame, *, images: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """How often reviewers gave hidden pictures the answer of the audit: a row a reviewer and kind of label.

    Args:
        lines: of the journal, as from `labels.read_journal`.
        images: the images table, for near-duplicate groups.
        level: of the intervals.

    Returns:
        `reviewer`, `labels` ("all", "wrong": the label shown was not the answer, "right"), `pictures`, `own` (how many
        of these the reviewer had answered in the audit: there it tells of being steady), `accuracy`, `low`, `high`.
    """
    said = standing(lines, KNOWN).drop_duplicates(["sha256", "reviewer"], keep="last")
    truth = standing(lines, "audit").drop_duplicates("sha256", keep="last")
    said = said.merge(truth[["sha256", "decision", "reviewer"]], on="sha256", suffixes=("", "_audit"))
    said = said[~said["decision"].isin(["unsure", "escalate"])]
    said["answer"] = said["decision"].mask(said["decision"].eq("keep"), said["given_label"])
    groups, rows = images.drop_duplicates("sha256").set_index("sha256")["group"], []
    for reviewer, some in said.groupby("reviewer"):
        right = some["given_label"].eq(some["decision_audit"]).to_numpy()
        kinds = {"all": np.ones(len(some), bool), "wrong": ~right, "right": right}
        same = some["answer"].eq(some["decision_audit"]).to_numpy()
        found = share_interval(same, some["sha256"].map(groups), among=kinds.values(), level=level)
        own = [int((some["reviewer"].eq(some["reviewer_audit"]) & kind).sum()) for kind in kinds.values()]
        numbers = {"pictures": found.rows, "own": own, "accuracy": found.value, "low": found.low, "high": found.high}
        rows.append(pd.DataFrame({"reviewer": reviewer, "labels": [*kinds]} | numbers))
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


def open_session(
    run_dir: Path,
    journal: Path,
    *,
    mode: str = "review",
    share: float = 0.1,
    control_every: int = 0,
    known: float = 0.03,
    **options: Any,
) -> ReviewSession:
    """The session that a reviewer's page shows, from what notebook 03 left in the run.

    Args:
        run_dir: holds `images.parquet`, `label_issues.parquet`, `pred_probs.parquet` and the frozen audits.
        journal: the decisions journal.
        mode: as of `ReviewSession`, and so are `control_every`, for mode "review", and other options.
        share: of what others decided, for mode "second".
        known: for mode "review", how many pictures with an answer of an audit come again, hidden, as a share of those
            that nobody has decided; see `with_known` and `known_answers`.
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
        queue, hidden = with_known(queue, read_journal(journal), share=known)
        options |= {"pred_probs": probs.loc[queue["path"]].to_numpy(), "control_every": control_every}
        if hidden:
            return HiddenKnown(queue, journal, known=hidden, **options)
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
    """Wrong answers as a review queue: one row a picture, `score` = P(predicted) - P(label), worst first.

    All are indexed by path: `predictions`, rows of `val` with a column a class; `labels` with the `label` in force
    (missing where the picture was dropped); `table`, the images table.
    """
    label = labels["label"].reindex(predictions.index).dropna()
    probs = predictions.loc[label.index, list(class_names)]
    suggested = probs.idxmax(axis=1)
    p_given = probs.to_numpy()[np.arange(len(probs)), pd.Categorical(label, list(class_names)).codes]
    queue = pd.DataFrame({"given": label, "suggested": suggested, "p_given": p_given, "p_suggested": probs.max(axis=1)})
    queue = queue[queue["given"].ne(queue["suggested"])]
    queue["score"] = queue["p_suggested"] - queue["p_given"]
    known = table.loc[queue.index, ["sha256", "split", "group"]]
    return queue.join(known).sort_values("score", ascending=False).rename_axis("path").reset_index()
