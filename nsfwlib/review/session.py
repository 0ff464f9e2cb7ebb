"""Which suspected labels does a person look at next, and what did they decide?

`ReviewSession` holds every rule of reviewing as plain Python: the order of the pages, decisions, undo, resume.
`ReviewGrid` shows it and adds no rule. Every decision is in the journal (see `journal`) before a call returns.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nsfwlib import labels
from nsfwlib.data import may_be_class
from nsfwlib.evaluate import jeffreys
from nsfwlib.labels import ACTIONS, LABELLING, Replay
from nsfwlib.review.pages import check_queue, error_probability, known_images, make_pages, updated, with_controls

OUTCOMES = ("open", "kept", "drop", "unsure", "escalate", "relabelled", "other")  # last: a first label, a strange class
OPEN, KEPT, DROP, UNSURE, ESCALATE, RELABELLED, OTHER = range(len(OUTCOMES))
_WORD = {"": OPEN, "keep": KEPT, "drop": DROP, "unsure": UNSURE, "escalate": ESCALATE}
# How a session is held, and the kind of line that it writes to the journal. All but the first are blind.
MODES = {"review": "decision", "audit": "audit", "second": "second", "disagreement": "resolution"}
KNOWN = "known"  # the kind of line that an answer to a hidden picture makes; it gives no label


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
        known: contents whose answer an audit knows, in mode "review", as open as all others to who reviews. What is
            said of them is a line of kind `KNOWN`: it tells of the reviewer, and changes no label.

    `queue` is the table in the order shown, with the columns `page` and `is_control` added, and has `n_pages`. What was
    decided before the session began comes last.

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
        known: Collection[str] = (),
    ) -> None:
        self.class_names = [str(name) for name in class_names]
        self.journal, self.reviewer, self.page_size = Path(journal), reviewer, page_size
        self.mode, self.blind, self.known = mode, mode != "review", frozenset(known)
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}. Received: {mode!r}.")
        if mode == "second" and not reviewer:
            raise ValueError("A second look needs a name. Received no reviewer: pass reviewer='your name'.")
        if clash := [name for name in self.class_names if not may_be_class(name)]:
            raise ValueError(
                f"A class cannot be called like a decision ({', '.join(ACTIONS)}, undo, redo, in any case), nor have "
                f"blanks or quotes around its name: the journal could not tell. Rename: {clash}"
            )
        labels.check_writable(self.journal)
        check_queue(queue, test_may_enter=mode in ("audit", "second"))
        queue = queue.reset_index(drop=True).fillna({"given": "", "suggested": ""})
        self.pred_probs = None
        if pred_probs is not None and not self.blind:
            probs = labels.check_probs(pred_probs, len(queue), len(self.class_names), gaps=True)
            self.pred_probs = pd.DataFrame(probs, pd.Index(queue["path"]), self.class_names)
        self._kinds = [MODES[mode]] if self.blind else LABELLING
        self.images = known_images(queue, images)
        self._group_of: dict[str, Any] = {}
        self._contents_of: dict[Any, set[str]] = defaultdict(set)  # by group, for what is hidden is hidden by group
        self._classes_of: dict[Any, set[str]] = defaultdict(set)
        columns = (column.tolist() for _, column in self.images.items())  # ten times as fast to walk
        for path, sha256, filed, group in zip(*columns, strict=True):
            self._group_of[path] = group
            self._contents_of[group].add(sha256)
            self._classes_of[group].add(filed)
        self._note_classes(queue)
        labels_of = self.images.groupby("sha256")["given_label"].nunique()
        self._conflicting = set(labels_of.index[labels_of > 1])
        self._replay = Replay(self.journal, reviewer=reviewer)
        self._spoken = {*self._replay.catch_up()}  # contents that the journal speaks of
        classes = {*self.class_names, *self.images["given_label"]} - {""}
        for sha256 in sorted(self._spoken.intersection(labels_of.index)):
            if (said := self._replay.decision(sha256)) not in ("", *ACTIONS, *classes):
                labels.refuse_class(self.journal, sha256, said, classes)
        decided = queue["sha256"].isin([sha256 for sha256 in self._spoken if self.decision(sha256)]).to_numpy()
        if self.blind:
            queue = queue.assign(given="", suggested="", score=np.nan).iloc[np.argsort(decided, kind="stable")]
            pages = [np.arange(start, len(queue))[:page_size] for start in range(0, len(queue), page_size)]
            self._set_pages(queue, pages, [False] * len(pages))
        else:
            still_open = queue.assign(score=queue["score"].mask(decided))
            self._set_pages(queue, *with_controls(still_open, page_size, control_every, seed))

    def page(self, *numbers: int) -> pd.DataFrame:
        """The rows of a page (or of several, one after the other) in the order shown, and three columns more.

        decision: what is in force ("" = nothing); conflict: exact copies lie under two labels, so "keep" is refused;
        alike: how many of the rows belong to its near-duplicate group.
        """
        rows = self.queue.iloc[[row for i in numbers for row in self.page_rows(i)]].reset_index(drop=True)
        rows["decision"] = [self.decision(sha256) for sha256 in rows["sha256"]]
        rows["conflict"] = rows["sha256"].isin(self._conflicting)
        groups = rows["group"] if "group" in rows else rows["path"]
        rows["alike"] = groups.map(groups.value_counts()).fillna(1).astype(int)
        return rows

    def page_of(self, path: str) -> int:
        """The page on which the picture at `path` is shown; a KeyError if it is not in the queue."""
        return int(self.queue["page"].iloc[self._row_of(path)])

    def page_default(self, i: int) -> str:
        """What accepting page `i` says: the suggested class if most labels are likely wrong, else "keep"; blind ""."""
        rows = self.page_rows(i)
        if self.blind:
            return ""
        likely_wrong = not self.queue["is_control"].iloc[rows[0]] and self._p_error[rows].mean() > 0.5
        return str(self.queue["suggested"].iloc[rows[0]] or "keep") if likely_wrong else "keep"

    def pages(self) -> pd.DataFrame:
        """One row a page: given, suggested, is_control, rows, decided, expected_errors among the undecided."""
        page, is_open = self.queue["page"], self._outcome == OPEN
        n_open, errors = (np.bincount(page, of, self.n_pages) for of in (is_open, self._p_error * is_open))
        decided = self._page_table["rows"] - n_open.astype(int)
        return self._page_table.assign(decided=decided, expected_errors=errors)

    def first_open_page(self) -> int:
        """The first page with a row that nobody has decided; the last page when all are, 0 when there is none."""
        return int(next(iter(self.queue["page"][self._outcome == OPEN]), max(0, self.n_pages - 1)))

    def decision(self, sha256: str) -> str:
        """The decision in force on this content; "" when there is none.

        In mode "audit" the answer to an audit, in mode "second" this reviewer's own second look, in mode
        "disagreement" the resolution, of a known content what this reviewer said in review; an escalation always.
        """
        said, kinds = self._replay.decision(sha256), [KNOWN] if sha256 in self.known else self._kinds
        return said if said == "escalate" or kinds is LABELLING else self._replay.decision(sha256, kinds)

    def classes_of(self, path: str) -> set[str]:
        """What it may show, blind or not: any class filed, suggested, answered or decided, of it or near-duplicates."""
        group, kinds = self._group_of.get(path), (LABELLING, ["audit"], ["second"], ["resolution"])
        contents = self._contents_of.get(group, ())
        decided = {self._replay.decision(content, kind) for content in contents for kind in kinds}
        return (self._classes_of.get(group, set()) | decided) - {"", *ACTIONS}

    def why_hidden(self, path: str, hidden: Collection[str] = ()) -> str:
        """Why who avoids the classes `hidden` is not shown this picture: "escalated", "class hidden", or ""."""
        if self.is_escalated(path):
            return "escalated"
        return "class hidden" if not self.classes_of(path).isdisjoint(hidden) else ""

    def is_escalated(self, path: str) -> bool:
        """Whether this picture, or a near-duplicate of it, was escalated, or is not known: it may not be shown."""
        contents = self._contents_of.get(self._group_of.get(path))
        return contents is None or any(self.decision(content) == "escalate" for content in contents)

    def catch_up(self) -> None:
        """Take in what anybody wrote to the journal since it was read last.

        An OSError where it is gone or cannot be read: nothing may be shown, for nobody knows what was escalated. A
        ValueError where it is no journal any more; says which line.
        """
        self._sync(self._replay.catch_up())

    def decide(
        self, path: str, decision: str, *, also: Collection[str] = (), seconds: float = np.nan, override: bool = True
    ) -> None:
        """Record one decision on the picture at `path` (and all its exact copies); on disk when this returns.

        `decision` is a class name, "keep", "drop", "unsure" or "escalate"; `also`, the paths of others that it is for,
        as one action; `seconds`, how long they were looked at; `override`, whether it may take the place of what
        somebody else decided otherwise.

        A KeyError where a path is not in the queue. A ValueError where there is no such decision, for "keep" on copies
        that lie under two labels, or, without `override`, where somebody else decided otherwise; says who and what.
        """
        rows = [self._row_of(one) for one in (path, *also)]
        choices = [*self.class_names, *ACTIONS]
        if decision not in choices:
            raise ValueError(f"decision must be one of {choices}. Received: {decision!r}")
        contents = self.queue["sha256"].iloc[rows]
        if decision == "keep" and (self.blind or self._conflicting & {*contents}):
            why = "No label is shown here" if self.blind else "Exact copies of this picture lie under two labels"
            raise ValueError(f"{why}, so 'keep' says nothing: give the picture a class.")
        for row, sha256 in zip(rows, contents, strict=True):
            said = self.decision(sha256)
            who = self._replay.decision(sha256, LABELLING if said == "escalate" else self._kinds, column="reviewer")
            meant = {self._filed[row] if word == "keep" else word for word in (said, decision)}
            overrules = said and len(meant) == 2 and who != self.reviewer
            # What the audit said of a known one would give it away.
            if overrules and not (override or decision == "escalate" or sha256 in self.known):
                raise ValueError(f"{who or 'Somebody'} decided {said!r}. Decide the same once more to overrule that.")
        self._decide(rows, decision, seconds)

    def accept_page(self, i: int, *, skip: Collection[str] = (), seconds: float = np.nan) -> pd.DataFrame:
        """Give every undecided row of page `i` the page's likelier decision (`page_default`), as one action.

        Left undecided are the paths in `skip` (not shown to the reviewer) and, where the decision is "keep",
        copies that lie under two labels. Returns the page as it stands afterwards.
        """
        page, decision = self.page(i), self.page_default(i)
        if self.blind:
            raise ValueError("No label is shown here, so a page cannot be accepted: give each picture a class.")
        left = page["path"].isin(skip) | (page["conflict"] & (decision == "keep"))
        rows = page[page["decision"].eq("") & ~left].drop_duplicates("sha256")
        if len(rows):
            self._decide([self._row_of(path) for path in rows["path"]], decision, seconds)
        return self.page(i)

    def undo(self) -> list[str]:
        """Take back this reviewer's last action, of this sitting or an earlier one; the queue's paths it concerned."""
        return self._mark("undo")

    def redo(self) -> list[str]:
        """Put back what was undone last; the queue's paths it concerned."""
        return self._mark("redo")

    def note(self, path: str, text: str, *, kind: str = "note") -> None:
        """Write into the journal a remark on a picture, or that it was seen sharp (`kind` "reveal"): no decision."""
        lines = self.queue.iloc[[self._row_of(path)]][["sha256", "path"]].assign(kind=kind, decision=text.strip())
        self._write(lines.assign(reviewer=self.reviewer).to_dict("records"))

    def decisions(self) -> pd.DataFrame:
        """The decisions in force in the journal, one row a picture (see `labels.in_force`), with its last `note`."""
        lines = labels.read_journal(self.journal)
        last = lines[lines["kind"].eq("note")].drop_duplicates("sha256", keep="last").set_index("sha256")["decision"]
        return labels.in_force(lines).assign(note=lambda table: last.reindex(table["sha256"], fill_value="").to_numpy())

    def escalated(self) -> pd.DataFrame:
        """Pictures to hand on to somebody else: path, given_label, reviewer, time. To be listed, never shown."""
        table = pd.DataFrame(self._replay.escalated(), columns=["path", "given_label", "reviewer", "time"])
        return table.assign(time=pd.to_datetime(table["time"], utc=True, format="ISO8601", errors="coerce"))

    def rerank(self, scores: pd.DataFrame, *, in_view: Collection[int] = ()) -> list[int]:
        """Order anew what nobody has touched: pages with a decision, control pages and those in view stay first.

        `scores` has the columns `path`, `score`, `suggested` and any other of the queue's to replace; rows it does not
        list keep theirs, as do known ones, whose place would give them away. Returns the numbers that the pages in view
        have now. A blind session's order is part of the sample: a ValueError.
        """
        if self.blind:
            raise ValueError(f"The order of a session in mode {self.mode!r} stays as it was drawn.")
        table = self.pages()
        stays = ((table["decided"] > 0) | table["is_control"] | table.index.isin(list(in_view))).to_numpy(bool)
        kept = [self.page_rows(page) for page in np.flatnonzero(stays)]
        rest = np.flatnonzero(~stays[self.queue["page"]])
        queue = self.queue.drop(columns=["page", "is_control"])
        free = rest[~queue["sha256"].iloc[rest].isin(self.known)]
        queue.iloc[free] = updated(queue.iloc[free], scores)
        self._note_classes(queue)
        fresh = [rest[page] for page in make_pages(queue.iloc[rest], page_size=self.page_size)]
        control = [*table["is_control"][stays], *[False] * len(fresh)]
        self._set_pages(queue, kept + fresh, control)
        return [int(stays[:page].sum()) for page in in_view]

    def progress(self) -> dict[str, float]:
        """Numbers: rows, decided; relabelled (to another class), kept, drop, unsure, escalate; errors_found, seconds.

        errors_found: relabelled or dropped, of what had a label; seconds: looked at, by all reviewers and sittings.
        """
        count = dict(zip(OUTCOMES, np.bincount(self._outcome, minlength=len(OUTCOMES)).tolist(), strict=True))
        return {
            "rows": len(self.queue),
            "decided": len(self.queue) - count["open"],
            **{name: count[name] for name in OUTCOMES[1:-1]},
            "errors_found": count["relabelled"] + int(((self._outcome == DROP) & (self._filed != "")).sum()),
            "seconds": self._replay.seconds,
        }

    def base_rate(self) -> dict[str, float]:
        """Share of wrong labels on control pages that are done, with its 95 % interval: rows, errors, rate, low, high.

        What is decided on the others was so elsewhere, as a suspect, and is no random part. Rows decided "unsure" or
        "escalate" count for nothing.
        """
        pages = self.pages()
        done = pages["is_control"] & pages["decided"].eq(pages["rows"])
        drawn = self._outcome[done.to_numpy()[self.queue["page"]] & (self._filed != "")]
        errors, kept = (int(np.isin(drawn, codes).sum()) for codes in ([RELABELLED, DROP], [KEPT]))
        n, (low, high) = errors + kept, map(float, jeffreys(errors, errors + kept))
        return {"rows": n, "errors": errors, "rate": errors / n if n else float("nan"), "low": low, "high": high}

    def _set_pages(self, queue: pd.DataFrame, pages: list[np.ndarray], control: Sequence[bool]) -> None:
        sizes = [len(page) for page in pages]
        self.n_pages, self._ends = len(pages), np.cumsum([0, *sizes])
        self._outcome = np.full(self._ends[-1], OPEN, np.int8)  # of each row, as in `OUTCOMES`
        self.queue = queue.iloc[np.concatenate([np.arange(0), *pages])].reset_index(drop=True)
        self.queue["page"] = np.repeat(np.arange(len(pages)), sizes)
        self.queue["is_control"] = np.repeat(np.asarray(control, bool), sizes)
        first = self.queue.iloc[self._ends[:-1]].set_index("page")
        self._page_table = first[["given", "suggested", "is_control"]].assign(rows=sizes)
        self._position = pd.Index(self.queue["path"])
        self._p_error = error_probability(self.queue)
        self._rows_of: dict[str, list[int]] = defaultdict(list)
        for row, content in enumerate(self.queue["sha256"].tolist()):
            self._rows_of[content].append(row)
        self._filed = self.images.set_index("path")["given_label"].loc[self._position].to_numpy(object)
        self._sync(self._spoken)

    def _note_classes(self, queue: pd.DataFrame) -> None:
        """What is shown for each group; what was suggested before a re-ranking stays noted."""
        for column in queue.columns.intersection(["given", "suggested", "about"]):
            for path, said in zip(queue["path"].tolist(), queue[column].tolist(), strict=True):
                self._classes_of[self._group_of[path]].update(said.split(" / "))

    def _sync(self, contents: Iterable[str]) -> None:
        """Bring what is kept of the decisions up to date for some contents."""
        self._spoken.update(contents)
        for sha256 in contents:
            said = self.decision(sha256)
            for row in self._rows_of.get(sha256, ()):
                kept_or_not = KEPT if said == self._filed[row] else RELABELLED if self._filed[row] else OTHER
                outcome = _WORD.get(said, kept_or_not if said in self.class_names else OTHER)
                is_error = outcome in (RELABELLED, DROP)  # of a known one no error that review has found
                self._outcome[row] = KEPT if is_error and sha256 in self.known else outcome

    def page_rows(self, i: int) -> np.ndarray:
        """Which rows of `queue` make page `i`; an IndexError if there is no such page."""
        if not 0 <= i < self.n_pages:
            raise IndexError(f"page must be one of the {self.n_pages} pages, counted from 0. Received: {i}")
        return np.arange(*self._ends[i : i + 2])

    def _row_of(self, path: str) -> int:
        try:
            return int(self._position.get_loc(path))
        except KeyError:
            raise KeyError(f"path must be one of the {len(self.queue)} in the queue. Received: {path!r}") from None

    def _decide(self, rows: Sequence[int], decision: str, seconds: float) -> None:
        # An escalation is no opinion to compare: it hides the picture from everybody at once.
        lines = self.queue.iloc[rows][["sha256", "path", "suggested", "score"]]
        kinds = np.where(lines["sha256"].isin(self.known), KNOWN, MODES[self.mode])
        lines["kind"] = "decision" if decision == "escalate" else kinds
        lines = lines.assign(given_label=self._filed[rows], decision=decision, seconds=seconds / len(rows))
        if decision == "keep":  # where an earlier decision is shown as given, that class is meant, not the folder's
            given = self.queue["given"].iloc[rows]
            lines["decision"] = given.where((given != "") & (given != lines["given_label"]), decision)
        self._write(lines.assign(reviewer=self.reviewer).to_dict("records"))

    def _mark(self, kind: str) -> list[str]:
        self.catch_up()
        actions = self._replay.done if kind == "undo" else self._replay.undone
        if not actions:
            return []
        concerned = self._write([{"kind": kind, "action": next(reversed(actions)), "reviewer": self.reviewer}])
        return [self.queue["path"].iloc[self._rows_of[one][0]] for one in concerned if one in self._rows_of]

    def _write(self, lines: list[dict[str, Any]]) -> Collection[str]:
        labels.append_decisions(self.journal, lines)
        changed = self._replay.catch_up()
        self._sync(changed)
        return changed
