"""Which suspected labels does a person look at next, and what did they decide?

`ReviewSession` holds every rule of reviewing as plain Python: the order of the pages, decisions, undo, resume. The
grid in `widgets` shows it and adds no rule. Every decision is in the journal (see `journal`) before a call returns.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nsfwlib import journal as journal_file

ACTIONS = ("keep", "drop", "unsure", "escalate")
REQUIRED = ("path", "sha256", "given", "suggested", "score")
PAGE_COST = 4.0  # pictures' worth of time that starting another (given, suggested) pair costs a reviewer


def error_probability(queue: pd.DataFrame) -> np.ndarray:
    """How likely each label is wrong, for ordering only: float (N,) in [0, 1], rising with the score.

    A margin in [-1, 1] is read as P(suggested) - P(given) between two classes; any other score by its rank.
    Rows without a score get 0: they come last.
    """
    score = queue["score"].to_numpy(float)
    if len(score) and np.nanmax(np.abs(score), initial=0) > 1:
        return queue["score"].rank(pct=True).fillna(0).to_numpy(float)
    return np.nan_to_num((1 + score) / 2, nan=0.0)


def make_pages(queue: pd.DataFrame, *, page_size: int = 24) -> list[np.ndarray]:
    """Row positions of `queue` cut into pages of one (given, suggested) pair, the page with the most to find first.

    Within a pair rows go by descending score, members of one near-duplicate `group` side by side. A page ends where
    expected errors per effort, sum(p) / (rows + `PAGE_COST`), is highest, at `page_size` at the latest, and pages
    are ordered by that rate: so a few glaring suspects of a rare pair are not buried under full pages of a
    common one.
    """
    p = error_probability(queue)
    pages, rates = [], []
    for rows in queue.groupby(["given", "suggested"], observed=True, sort=True).indices.values():
        rows = _by_score_with_groups_together(queue, rows, p)
        start = 0
        while start < len(rows):
            part = rows[start : start + page_size]
            rate = np.cumsum(p[part]) / (np.arange(1, len(part) + 1) + PAGE_COST)
            size = int(np.argmax(rate[::-1] >= rate.max() - 1e-12))
            size = len(part) - size
            pages.append(part[:size])
            rates.append(rate[size - 1])
            start += size
    return [pages[i] for i in np.argsort(-np.asarray(rates), kind="stable")]


def _by_score_with_groups_together(queue: pd.DataFrame, rows: np.ndarray, p: np.ndarray) -> np.ndarray:
    rows = rows[np.argsort(-p[rows], kind="stable")]
    if "group" not in queue:
        return rows
    first = pd.Series(np.arange(len(rows))).groupby(queue["group"].to_numpy()[rows]).transform("min")
    return rows[np.argsort(first.to_numpy(), kind="stable")]


class ReviewSession:
    """A queue of suspected labels, shown page by page, and the decisions taken on it.

    Args:
        queue: one row a picture with the columns `path, sha256, given, suggested, score` (higher = more suspect)
            and, where known, `group`, `split`, `p_given`, `p_suggested`. Rows of the test split are refused.
        journal: the decisions journal; what it already holds is in force, so a reopened session goes on.
        class_names: the classes a picture can be given.
        reviewer: a name that goes with each decision. Undo takes back this reviewer's decisions only.
        page_size: pictures a page, at most.
        pred_probs: out-of-sample probabilities, (N, K) in the order of `queue` and `class_names`, for display.
    """

    def __init__(
        self,
        queue: pd.DataFrame,
        journal: Path,
        *,
        class_names: Sequence[str],
        reviewer: str = "",
        page_size: int = 24,
        pred_probs: np.ndarray | pd.DataFrame | None = None,
    ) -> None:
        self.class_names = [str(name) for name in class_names]
        self.journal = Path(journal)
        self.reviewer = reviewer
        self.page_size = page_size
        _check_queue(queue, self.class_names)
        self.pred_probs = None
        if pred_probs is not None:
            values = np.asarray(pred_probs, float)
            self.pred_probs = pd.DataFrame(values, queue["path"], self.class_names)
        self._set_pages(queue.reset_index(drop=True), make_pages(queue, page_size=page_size))
        self._load()

    @property
    def n_pages(self) -> int:
        """How many pages the queue has."""
        return len(self._pages)

    def page(self, i: int) -> pd.DataFrame:
        """The rows of page `i` in the order shown, with their `decision` so far ("" = none)."""
        if not 0 <= i < self.n_pages:
            raise IndexError(f"page must be in 0 … {self.n_pages - 1}. Received: {i}")
        rows = self.queue.iloc[self._pages[i]].copy()
        rows["decision"] = [self.decision(sha) for sha in rows["sha256"]]
        return rows.reset_index(drop=True)

    def decision(self, sha256: str) -> str:
        """The decision in force on this content; "" when there is none."""
        for action, decision in reversed(self._history.get(sha256, ())):
            if action not in self._undone:
                return decision
        return ""

    def decide(self, path: str, decision: str, *, seconds: float | None = None) -> None:
        """Record one decision on the picture at `path` (and all its exact copies); on disk when this returns.

        Args:
            path: of a picture in the queue.
            decision: a class name, "keep", "drop", "unsure" or "escalate".
            seconds: how long it was looked at.

        Raises:
            KeyError: the path is not in the queue.
            ValueError: no such decision, or "keep" on copies that lie under two labels.
        """
        self._decide([self._row_of(path)], [decision], seconds)

    def accept_page(self, i: int, *, seconds: float | None = None) -> pd.DataFrame:
        """Give every undecided row of page `i` the page's likelier decision (`page_default`), as one action.

        Copies that lie under two labels are left undecided where that decision is "keep".

        Returns:
            The page as it stands afterwards.
        """
        rows, default = self.page(i), self.page_default(i)
        todo = rows[rows["decision"] == ""].drop_duplicates("sha256")
        if default == "keep":
            todo = todo[~todo["sha256"].isin(self._conflicting)]
        if len(todo):
            each = None if seconds is None else seconds / len(todo)
            self._decide([self._row_of(path) for path in todo["path"]], [default] * len(todo), each)
        return self.page(i)

    def page_default(self, i: int) -> str:
        """What accepting page `i` means: its suggested class where most of its labels are likely wrong, else "keep"."""
        rows = self._pages[i]
        return str(self.queue["suggested"].iloc[rows[0]]) if self._p_error[rows].mean() > 0.5 else "keep"

    def undo(self) -> list[str]:
        """Take back this reviewer's last action, of this sitting or an earlier one; the paths it concerned."""
        return self._mark("undo", self._done, self._redo)

    def redo(self) -> list[str]:
        """Put back what was undone last; the paths it concerned."""
        return self._mark("redo", self._redo, self._done)

    def decisions(self) -> pd.DataFrame:
        """The decisions in force in the journal, one row a picture (as `journal.decisions`)."""
        return journal_file.decisions(self.journal)

    def progress(self) -> dict[str, float]:
        """Counts for a progress line: rows, decided, what was decided, errors found, seconds, expected errors left."""
        decision = pd.Series([self.decision(sha) for sha in self.queue["sha256"]], dtype=object)
        given = self.queue["given"].astype(object).reset_index(drop=True)
        relabelled = decision.isin(self.class_names) & (decision != given)
        open_rows = (decision == "").to_numpy()
        return {
            "rows": len(decision),
            "decided": int((~open_rows).sum()),
            "pages": self.n_pages,
            "pages_done": int(sum(not open_rows[page].any() for page in self._pages)),
            "relabelled": int(relabelled.sum()),
            "kept": int(((decision == "keep") | (decision.isin(self.class_names) & ~relabelled)).sum()),
            **{name: int((decision == name).sum()) for name in ("drop", "unsure", "escalate")},
            "errors_found": int(relabelled.sum() + (decision == "drop").sum()),
            "expected_left": float(self._p_error[open_rows].sum()),
            "seconds": self._seconds,
        }

    def first_open_page(self) -> int:
        """The first page with a row that nobody has decided; the last page when all are."""
        decided = np.array([self.decision(sha) != "" for sha in self.queue["sha256"]], bool)
        return next(
            (i for i, page in enumerate(self._pages) if not decided[page].all()), max(0, self.n_pages - 1)
        )

    def _set_pages(self, queue: pd.DataFrame, pages: list[np.ndarray]) -> None:
        order = np.concatenate(pages) if pages else np.arange(0)
        ends = np.cumsum([len(page) for page in pages]).astype(int)
        self.queue = queue.iloc[order].reset_index(drop=True)
        self.queue["page"] = np.repeat(np.arange(len(pages)), [len(page) for page in pages])
        self._pages = [np.arange(end - len(page), end) for page, end in zip(pages, ends, strict=True)]
        self._position = pd.Index(self.queue["path"])
        self._p_error = error_probability(self.queue)
        labels = self.queue.groupby("sha256")["given"].nunique()
        self._conflicting = set(labels.index[labels > 1])

    def _load(self) -> None:
        """State is what the journal says: the same replay at the start and after somebody else wrote."""
        lines = journal_file.read(self.journal)
        self._size = self.journal.stat().st_size if self.journal.exists() else 0
        self._history: dict[str, list[tuple[str, str]]] = {}
        self._paths: dict[str, list[str]] = {}
        self._undone: set[str] = set()
        self._done: list[str] = []
        self._redo: list[str] = []
        self._seconds = float(lines["seconds"].sum())
        columns = lines[["kind", "action", "sha256", "path", "decision", "reviewer"]]
        for kind, action, sha256, path, decision, reviewer in columns.itertuples(index=False, name=None):
            self._replay(kind, action, sha256, path, decision, own=reviewer == self.reviewer)

    def _replay(self, kind: str, action: str, sha256: str, path: str, decision: str, *, own: bool) -> None:
        if kind == "decision":
            self._history.setdefault(sha256, []).append((action, decision))
            self._paths.setdefault(action, []).append(path)
            if own and action not in self._done[-1:]:
                self._done.append(action)
                self._redo.clear()
        elif kind in ("undo", "redo"):
            (self._undone.add if kind == "undo" else self._undone.discard)(action)
            source, target = (self._done, self._redo) if kind == "undo" else (self._redo, self._done)
            if own and action in source:
                source.remove(action)
                target.append(action)

    def _row_of(self, path: str) -> int:
        try:
            return int(self._position.get_loc(path))
        except KeyError:
            raise KeyError(
                f"path must be one of the {len(self.queue)} in the queue. Received: {path!r}"
            ) from None

    def _decide(self, rows: list[int], decisions: list[str], seconds: float | None) -> None:
        for row, decision in zip(rows, decisions, strict=True):
            self._check_decision(self.queue["sha256"].iloc[row], decision)
        action = journal_file.new_action()
        lines = [
            self._line(row, action, decision, seconds) for row, decision in zip(rows, decisions, strict=True)
        ]
        self._write(lines)

    def _check_decision(self, sha256: str, decision: str) -> None:
        if decision not in ACTIONS and decision not in self.class_names:
            raise ValueError(
                f"decision must be one of {[*self.class_names, *ACTIONS]}. Received: {decision!r}"
            )
        if decision == "keep" and sha256 in self._conflicting:
            raise ValueError(
                "Exact copies of this picture lie under two labels: give it a class instead of 'keep'."
            )

    def _line(self, row: int, action: str, decision: str, seconds: float | None) -> dict[str, Any]:
        shown = self.queue.iloc[row]
        return {
            "reviewer": self.reviewer,
            "kind": "decision",
            "action": action,
            "sha256": shown["sha256"],
            "path": shown["path"],
            "given_label": shown["given"],
            "decision": decision,
            "suggested": shown["suggested"],
            "score": float(shown["score"]),
            "seconds": seconds,
        }

    def _mark(self, kind: str, source: list[str], target: list[str]) -> list[str]:
        if not source:
            return []
        action = source[-1]
        self._write([{"reviewer": self.reviewer, "kind": kind, "action": action}])
        return self._paths[action]

    def _write(self, lines: list[Mapping[str, Any]]) -> None:
        start, size = journal_file.append(self.journal, lines)
        if start != self._size:  # somebody else wrote too
            self._load()
            return
        self._size = size
        for line in lines:
            self._replay(
                line["kind"], line["action"], line.get("sha256", ""), line.get("path", ""),
                line.get("decision", ""), own=True,
            )  # fmt: skip
            self._seconds += line.get("seconds") or 0.0


def _check_queue(queue: pd.DataFrame, class_names: list[str]) -> None:
    missing = [name for name in REQUIRED if name not in queue]
    if missing:
        raise ValueError(f"queue needs the columns {list(REQUIRED)}. Missing: {missing}")
    if "split" in queue and (queue["split"] == "test").any():
        rows = queue.loc[queue["split"] == "test", "path"]
        raise ValueError(
            f"The test split never enters this queue. Received {len(rows)} rows of it (first: {rows.iloc[0]}). "
            "Leave them out: queue[queue.split != 'test']."
        )
    if queue["path"].duplicated().any():
        raise ValueError(
            f"queue should have one row a path. Twice: {queue.path[queue.path.duplicated()].iloc[0]!r}"
        )
    if queue["sha256"].isna().any() or (queue["sha256"] == "").any():
        raise ValueError(
            "Every row of queue needs its sha256: decisions belong to content. Scan the folders again."
        )
    clash = [name for name in class_names if name in ACTIONS]
    if clash:
        raise ValueError(f"A class cannot be called like a decision {list(ACTIONS)}. Rename: {clash}")
