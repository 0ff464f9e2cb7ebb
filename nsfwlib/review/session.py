"""Which suspected labels does a person look at next, and what did they decide?

`ReviewSession` holds every rule of reviewing as plain Python: the order of the pages, decisions, undo, resume.
`ReviewGrid` shows it and adds no rule. Every decision is in the journal (see `journal`) before a call returns.
"""

import itertools
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nsfwlib.evaluate import jeffreys
from nsfwlib.labels import (
    ACTIONS,
    Replay,
    append_decisions,
    check_probs,
    check_writable,
    decisions_in_force,
    may_be_class,
    new_action,
)
from nsfwlib.review.pages import (
    REQUIRED,
    check_queue,
    error_probability,
    known_images,
    make_pages,
    updated,
    with_control_pages,
)

OUTCOMES = ("open", "kept", "drop", "unsure", "escalate", "relabelled", "other")  # the last: a class of another session
OPEN, KEPT, DROP, UNSURE, ESCALATE, RELABELLED, OTHER = range(len(OUTCOMES))
_WORD = {"": OPEN, "keep": KEPT, "drop": DROP, "unsure": UNSURE, "escalate": ESCALATE}
# How a session is held, and the kind of line that it writes to the journal. All but the first are blind.
MODES = {"review": "decision", "audit": "audit", "second": "second", "disagreement": "resolution"}


class ReviewSession:
    """A queue of suspected labels, shown page by page, and the decisions taken on it.

    Args:
        queue: one row a picture with the columns `path, sha256, given, suggested, score` (higher = more suspect)
            and, where known, `group`, `split`, `p_given`, `p_suggested`. Rows of the test split are refused.
        journal: the decisions journal; what it holds already is in force, so a reopened session goes on.
        class_names: the classes a picture can be given.
        reviewer: a name that goes with each decision. Undo takes back this reviewer's decisions only.
        page_size: pictures a page, at most.
        pred_probs: out-of-sample probabilities, (N, K) in the order of `queue` and `class_names`, for display.
        images: the images table, to know of copies and group members that are not in the queue.
        control_every: after so many pages comes one drawn at random from the whole queue, shown without
            suggestion, so that the base rate of errors is known; 0 = never.
        seed: of that draw.
        mode: "review", or a blind one: "audit" (a frozen sample; the only way in for the test split), "second" (what
            others decided, shown again to `reviewer`; of the test split what an audit asked for), "disagreement" (to
            be resolved).

    `queue` is the table in the order shown, with the columns `page` and `is_control` added. What was decided before
    the session began comes last.

    Blind: the queue's order is kept, and neither label nor suggestion, probability, file name or neighbour is shown,
    for whoever sees a label tends to confirm it. So "keep" means nothing and no page can be accepted: every picture
    is given a class. In a disagreement the two answers are shown (`about`), in alphabetical order, without names.
    """

    def __init__(
        self,
        queue: pd.DataFrame,
        journal: Path,
        *,
        class_names: Sequence[str],
        reviewer: str = "",
        page_size: int = 24,
        pred_probs: np.ndarray | None = None,
        images: pd.DataFrame | None = None,
        control_every: int = 0,
        seed: int = 0,
        mode: str = "review",
    ) -> None:
        self.class_names = [str(name) for name in class_names]
        self.journal, self.reviewer, self.page_size = Path(journal), reviewer, page_size
        self.mode, self.blind = mode, mode != "review"
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}. Received: {mode!r}.")
        if mode == "second" and not reviewer:
            raise ValueError(
                "A second look needs to know whose it is. Received no reviewer: pass reviewer='your name'."
            )
        clash = [name for name in self.class_names if not may_be_class(name)]
        if clash:
            raise ValueError(
                f"A class cannot be called like a decision ({', '.join(ACTIONS)}, undo, redo, in any case), nor have "
                f"blanks or quotes around its name: the journal could not tell. Rename: {clash}"
            )
        check_writable(self.journal)
        check_queue(queue, test_may_enter=mode in ("audit", "second"))
        queue = queue.reset_index(drop=True).fillna({"given": "", "suggested": ""})
        self.pred_probs = None
        if pred_probs is not None and not self.blind:
            probs = check_probs(pred_probs, len(queue), len(self.class_names), gaps=True)
            self.pred_probs = pd.DataFrame(probs, pd.Index(queue["path"]), self.class_names)
        self.images = known_images(queue, images)
        self._escalated: set[str] = set()
        self._escalated_groups: set[Any] = set()
        self._known = {path: known for path, *known in self.images.itertuples(index=False, name=None)}
        self._contents_of: dict[Any, set[str]] = {}  # by group, and so are classes, for both are hidden by group
        self._classes_of: dict[Any, set[str]] = {}
        for sha256, filed, group in self._known.values():
            self._contents_of.setdefault(group, set()).add(sha256)
            self._classes_of.setdefault(group, set()).add(filed)
        self._note_classes(queue)
        labels_of = self.images.groupby("sha256")["given_label"].nunique()
        self._conflicting = set(labels_of.index[labels_of > 1])
        self._replay = Replay(path=self.journal, reviewer=reviewer)
        self._replay.catch_up()
        decided = queue["sha256"].map(self.decision) != ""
        if self.blind:
            queue = queue.assign(given="", suggested="", score=np.nan).iloc[np.argsort(decided, kind="stable")]
            pages = [np.arange(start, len(queue))[:page_size] for start in range(0, len(queue), page_size)]
            self._set_pages(queue, pages, [False] * len(pages))
        else:
            still_open = queue.assign(score=queue["score"].mask(decided))
            self._set_pages(queue, *with_control_pages(still_open, page_size, control_every, seed))

    # --- what is shown ---

    @property
    def n_pages(self) -> int:
        """How many pages the queue has."""
        return len(self._pages)

    def page(self, *numbers: int) -> pd.DataFrame:
        """The rows of a page (or of several, one after the other) in the order shown, and four columns more.

        decision: what is in force ("" = nothing); conflict: exact copies lie under two labels, so "keep" is refused;
        alike: how many of the rows belong to its near-duplicate group; escalated: see `is_escalated`.
        """
        positions = [self.page_rows(i) for i in numbers]
        rows = self.queue.iloc[np.concatenate([np.arange(0), *positions])].reset_index(drop=True)
        rows["decision"] = [self.decision(sha256) for sha256 in rows["sha256"]]
        rows["conflict"] = rows["sha256"].isin(self._conflicting)
        groups = rows["group"] if "group" in rows else rows["path"]
        rows["alike"] = groups.map(groups.value_counts()).fillna(1).astype(int)
        rows["escalated"] = [self.is_escalated(path) for path in rows["path"]]
        return rows

    def page_of(self, path: str) -> int:
        """The page on which the picture at `path` is shown.

        Raises:
            KeyError: the path is not in the queue.
        """
        return int(self.queue["page"].iloc[self._row_of(path)])

    def page_default(self, i: int) -> str:
        """What accepting page `i` says: its suggested class where most labels are likely wrong, else "keep".

        "" in a blind session: there, a page cannot be accepted.
        """
        rows = self.page_rows(i)
        if self.blind:
            return ""
        if self.queue["is_control"].iloc[rows[0]] or self._p_error[rows].mean() <= 0.5:
            return "keep"
        return str(self.queue["suggested"].iloc[rows[0]])

    def pages(self) -> pd.DataFrame:
        """One row a page: given, suggested, is_control, rows, decided, expected_errors among the undecided."""
        starts, decided = [page[0] for page in self._pages], self._outcome != OPEN
        count = np.add.reduceat(decided.astype(int), starts) if starts else []
        errors = np.add.reduceat(self._p_error * ~decided, starts) if starts else []
        return self._page_table.assign(decided=count, expected_errors=errors)

    def first_open_page(self) -> int:
        """The first page with a row that nobody has decided; the last page when all are, 0 when there is none."""
        still_open = self.queue["page"].to_numpy()[self._outcome == OPEN]
        return int(still_open[0]) if len(still_open) else max(0, self.n_pages - 1)

    def decision(self, sha256: str) -> str:
        """The decision in force on this content; "" when there is none.

        In mode "audit" the answer to an audit, in mode "second" this reviewer's own second look, in mode
        "disagreement" the resolution; an escalation always.
        """
        replay = self._replay
        if replay.decisions.get(sha256) == "escalate":
            return "escalate"
        alone = {"audit": replay.audits, "second": replay.looks, "disagreement": replay.resolutions}
        shown = alone.get(self.mode, replay.decisions)
        return shown.get(sha256, "")

    def classes_of(self, path: str) -> set[str]:
        """The classes that a picture may show, blind or not: whoever avoids a class is spared it.

        All that anybody filed, suggested, answered or decided, for it or a near-duplicate.
        """
        sha256, _, group = self._known.get(path, ("", "", ""))
        replay = self._replay
        said = (replay.decisions, replay.audits, replay.looks, replay.resolutions)
        decided = {words.get(content, "") for content in self._contents_of.get(group, [sha256]) for words in said}
        return (self._classes_of.get(group, set()) | decided) - {"", *ACTIONS}

    def why_hidden(self, path: str, hidden: Collection[str] = ()) -> str:
        """Why the picture at `path` may not be shown as things stand, to somebody who avoids the classes `hidden`.

        "" if it may be shown, else "escalated" or "class hidden".
        """
        if self.is_escalated(path):
            return "escalated"
        return "class hidden" if not self.classes_of(path).isdisjoint(hidden) else ""

    def is_escalated(self, path: str) -> bool:
        """Whether the picture at `path` may not be shown: it, or a near-duplicate of it, was escalated.

        True also for a path that this session does not know.
        """
        sha256, _, group = self._known.get(path, ("", "", ""))
        return not sha256 or self.decision(sha256) == "escalate" or group in self._escalated_groups

    def catch_up(self) -> None:
        """Take in what anybody wrote to the journal since it was read last.

        Raises:
            OSError: the journal is gone or cannot be read: nothing may be shown, for nobody knows what was escalated.
            ValueError: it is no journal any more; says which line.
        """
        self._sync(self._replay.catch_up())

    # --- what is decided ---

    def decide(self, path: str, decision: str, *, seconds: float | None = None) -> None:
        """Record one decision on the picture at `path` (and all its exact copies); on disk when this returns.

        Args:
            path: of a picture in the queue.
            decision: a class name, "keep", "drop", "unsure" or "escalate".
            seconds: how long it was looked at.

        Raises:
            KeyError: the path is not in the queue.
            ValueError: there is no such decision, or "keep" on copies that lie under two labels.
        """
        row = self._row_of(path)
        choices = [*self.class_names, *ACTIONS]
        if decision not in choices:
            raise ValueError(f"decision must be one of {choices}. Received: {decision!r}")
        if decision == "keep" and self.blind:
            raise ValueError("No label is shown here, so 'keep' says nothing: give the picture a class.")
        if decision == "keep" and self.queue["sha256"].iloc[row] in self._conflicting:
            raise ValueError(
                "Exact copies of this picture lie under two labels, so 'keep' says nothing: give it a class."
            )
        self._decide([row], decision, seconds)

    def accept_page(self, i: int, *, skip: Collection[str] = (), seconds: float | None = None) -> pd.DataFrame:
        """Give every undecided row of page `i` the page's likelier decision (`page_default`), as one action.

        Left undecided are the paths in `skip` (not shown to the reviewer) and, where the decision is "keep",
        copies that lie under two labels.

        Returns:
            The page as it stands afterwards.
        """
        page, decision = self.page(i), self.page_default(i)
        if self.blind:
            raise ValueError("No label is shown here, so a page cannot be accepted: give each picture a class.")
        rows = page[(page["decision"] == "") & ~page["path"].isin(skip)].drop_duplicates("sha256")
        if decision == "keep":
            rows = rows[~rows["sha256"].isin(self._conflicting)]
        if len(rows):
            each = None if seconds is None else seconds / len(rows)
            self._decide([self._row_of(path) for path in rows["path"]], decision, each)
        return self.page(i)

    def undo(self) -> list[str]:
        """Take back this reviewer's last action, of this sitting or an earlier one; the queue's paths it concerned."""
        return self._mark("undo")

    def redo(self) -> list[str]:
        """Put back what was undone last; the queue's paths it concerned."""
        return self._mark("redo")

    def decisions(self) -> pd.DataFrame:
        """The decisions in force in the journal, one row a picture (as `labels.decisions_in_force`)."""
        return decisions_in_force(self.journal)

    def escalated(self) -> pd.DataFrame:
        """Pictures to hand on to somebody else: path, given_label, reviewer, time. To be listed, never shown."""
        lines = self._replay.escalated.values()
        table = pd.DataFrame(list(lines), columns=["path", "given_label", "reviewer", "time"])
        return table.assign(time=pd.to_datetime(table["time"], utc=True, format="ISO8601", errors="coerce"))

    def rerank(self, scores: pd.DataFrame, *, in_view: Collection[int] = ()) -> list[int]:
        """Order anew what nobody has touched: pages with a decision, control pages and those in view stay first.

        Args:
            scores: columns `path`, `score`, `suggested` and any other of the queue's to replace; rows it does not
                list keep theirs.
            in_view: pages that must not change under the reviewer's eyes.

        Returns:
            The numbers that the pages in view have now.

        Raises:
            ValueError: a column is missing, or the session is blind: its order is part of the sample.
        """
        if self.blind:
            raise ValueError(f"The order of a session in mode {self.mode!r} stays as it was drawn.")
        table = self.pages()
        stays = ((table["decided"] > 0) | table["is_control"] | table.index.isin(list(in_view))).to_numpy(bool)
        kept = [page for page, stay in zip(self._pages, stays, strict=True) if stay]
        rest = np.concatenate([np.arange(0), *(p for p, stay in zip(self._pages, stays, strict=True) if not stay)])
        queue = self.queue.drop(columns=["page", "is_control"])
        queue.iloc[rest] = updated(queue.iloc[rest], scores)
        fresh = [rest[page] for page in make_pages(queue.iloc[rest], page_size=self.page_size)]
        control = [*table["is_control"][stays], *[False] * len(fresh)]
        self._set_pages(queue, kept + fresh, control)
        return [int(stays[:page].sum()) for page in in_view]

    # --- how far it is ---

    def progress(self) -> dict[str, float]:
        """Numbers for a progress line.

        rows, decided, pages, pages_done; relabelled (to another class), kept, drop, unsure, escalate;
        errors_found (relabelled or dropped); seconds looked at, all reviewers and sittings together.
        """
        count = dict(zip(OUTCOMES, np.bincount(self._outcome, minlength=len(OUTCOMES)).tolist(), strict=True))
        is_open = self._outcome == OPEN
        pages_open = np.bincount(self._page_of[is_open], minlength=self.n_pages)
        shown = ("relabelled", "kept", "drop", "unsure", "escalate")
        return {
            "rows": len(self.queue),
            "decided": len(self.queue) - count["open"],
            "pages": self.n_pages,
            "pages_done": int((pages_open == 0).sum()),
            **{name: count[name] for name in shown},
            "errors_found": count["relabelled"] + count["drop"],
            "seconds": self._replay.seconds,
        }

    def base_rate(self) -> dict[str, float]:
        """Share of wrong labels on the control pages, with its 95 % interval: rows, errors, rate, low, high.

        Rows decided "unsure" or "escalate" and those still open count for nothing.
        """
        drawn = self._outcome[self.queue["is_control"].to_numpy()]
        errors, kept = (int(np.isin(drawn, codes).sum()) for codes in ([RELABELLED, DROP], [KEPT]))
        n = errors + kept
        low, high = jeffreys(np.array([errors]), np.array([n])) if n else ([0.0], [1.0])
        rate = errors / n if n else float("nan")
        return {"rows": n, "errors": errors, "rate": rate, "low": float(low[0]), "high": float(high[0])}

    # --- inside ---

    def _set_pages(self, queue: pd.DataFrame, pages: list[np.ndarray], control: Sequence[bool]) -> None:
        sizes = [len(page) for page in pages]
        ends = np.cumsum([0, *sizes])
        self._pages = [np.arange(start, end) for start, end in itertools.pairwise(ends)]
        self._outcome = np.full(ends[-1], OPEN, np.int8)  # of each row, as in `OUTCOMES`
        self._page_of = np.repeat(np.arange(len(pages)), sizes)
        self.queue = queue.iloc[np.concatenate([np.arange(0), *pages])].reset_index(drop=True)
        self.queue["page"] = self._page_of
        self.queue["is_control"] = np.repeat(np.asarray(control, bool), sizes)
        first = self.queue.iloc[ends[:-1]].reset_index(drop=True)
        self._page_table = first[["given", "suggested", "is_control"]].assign(rows=sizes).rename_axis("page")
        self._position = pd.Index(self.queue["path"])
        self._p_error = error_probability(self.queue)
        self._rows_of: dict[str, list[int]] = {}
        for row, sha256 in enumerate(self.queue["sha256"]):
            self._rows_of.setdefault(sha256, []).append(row)
        self._filed = np.array([self._known[path][1] for path in self.queue["path"]], object)
        self._note_classes(self.queue)
        self._sync(self._rows_of)

    def _note_classes(self, queue: pd.DataFrame) -> None:
        """What is shown for each group; what was suggested before a re-ranking stays noted."""
        for column in queue.columns.intersection(["given", "suggested", "about"]):
            for path, said in zip(queue["path"].tolist(), queue[column].tolist(), strict=True):
                self._classes_of[self._known[path][2]].update(said.split(" / "))

    def _sync(self, contents: Iterable[str]) -> None:
        """Bring what is kept of the decisions up to date for some contents."""
        for sha256 in contents:
            for row in self._rows_of.get(sha256, ()):
                self._outcome[row] = self._outcome_of(self.decision(sha256), self._filed[row])
        if self._replay.escalated.keys() != self._escalated:
            self._escalated = set(self._replay.escalated)
            self._escalated_groups = set(self.images.loc[self.images["sha256"].isin(self._escalated), "group"])

    def _outcome_of(self, decision: str, filed: str) -> int:
        if decision in _WORD:
            return _WORD[decision]
        if decision not in self.class_names:
            return OTHER
        return KEPT if decision == filed else RELABELLED

    def page_rows(self, i: int) -> np.ndarray:
        """Which rows of `queue` make page `i`.

        Raises:
            IndexError: there is no such page.
        """
        if not 0 <= i < self.n_pages:
            raise IndexError(f"page must be one of the {self.n_pages} pages, counted from 0. Received: {i}")
        return self._pages[i]

    def _row_of(self, path: str) -> int:
        try:
            return int(self._position.get_loc(path))
        except KeyError:
            raise KeyError(f"path must be one of the {len(self.queue)} in the queue. Received: {path!r}") from None

    def _decide(self, rows: Sequence[int], decision: str, seconds: float | None) -> None:
        action, kind = new_action(), "decision" if decision == "escalate" else MODES[self.mode]
        lines = []
        for row in rows:
            shown, filed = {name: self.queue[name].iat[row] for name in REQUIRED}, self._filed[row]
            # Where an earlier decision is shown as given, to keep it means that class, not the folder's.
            restates = decision == "keep" and shown["given"] not in ("", filed)
            lines.append(
                {
                    **{name: shown[name] for name in ("sha256", "path", "suggested", "score")},
                    "reviewer": self.reviewer,
                    # An escalation is no opinion to compare: it hides the picture from everybody at once.
                    "kind": kind,
                    "action": action,
                    "given_label": filed,
                    "decision": shown["given"] if restates else decision,
                    "seconds": seconds,
                }
            )
        self._write(lines)

    def _mark(self, kind: str) -> list[str]:
        self.catch_up()
        actions = self._replay.done if kind == "undo" else self._replay.undone
        if not actions:
            return []
        action = actions[-1]
        self._write([{"kind": kind, "action": action, "reviewer": self.reviewer}])
        contents = dict.fromkeys(self._replay.concerned(action))
        rows = [self._rows_of[sha256][0] for sha256 in contents if sha256 in self._rows_of]
        return self.queue["path"].iloc[rows].tolist()

    def _write(self, lines: list[dict[str, Any]]) -> None:
        append_decisions(self.journal, lines)
        self.catch_up()
