"""Which label is in force? The given one, or what a person decided last; in memory as a journal grows (`Replay`)."""

import itertools
import math
import os
import warnings
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd

from nsfwlib import runs
from nsfwlib.labels.journal import ACTIONS, LABELLING, MARKS, decisions_in_force, lines_of, read_journal, refuse_class
from nsfwlib.labels.records import COLUMNS

_KEPT = ("kind", "action", "sha256", "decision", "reviewer")  # of a line
_ENDING = 256  # bytes that tell whether a file is still the one that was read


def current_labels(
    table: pd.DataFrame, journal: Path | pd.DataFrame | None, *, new_classes: Collection[str] = ()
) -> pd.Series:
    """Given labels with decisions applied → Series with the table's index; NA where a row is out.

    Out are rows with a problem, without any label, and those dropped or escalated. "keep" and "unsure" leave the given
    label. A warning says so where none of the decisions is on these pictures.

    Raises:
        ValueError: a decision in force on these pictures is a class that no folder of the table has and `new_classes`
            does not name, such as a slip of the pen; says which record.
    """
    labels = table["given_label"].where((table["problem"] == "") & (table["given_label"] != ""))
    if journal is None:
        return labels.rename("label")
    lines = decisions_in_force(journal)
    decided = table["sha256"].map(lines.set_index("sha256")["decision"]).where(table["problem"] == "")
    if len(lines) and not decided.notna().any():
        name = "the journal" if lines is journal else journal
        warnings.warn(f"{name}: 0 of {len(lines):,} decisions match these files. Is it of other data?", stacklevel=2)
    known = {*ACTIONS, *table["given_label"], *new_classes}
    if len(unknown := decided[decided.notna() & ~decided.isin(known)]):
        refuse_class(journal, table.loc[unknown.index[0], "sha256"], unknown.iloc[0], known - {*ACTIONS, ""})
    labels = labels.mask(decided.notna() & ~decided.isin(["keep", "unsure"]), decided)
    return labels.mask(decided.isin(["drop", "escalate"])).rename("label")


def what_changed(before: pd.Series, after: pd.Series) -> pd.DataFrame:
    """Numbers of pictures by label before (rows) and after (columns) review, changed ones only."""
    was, now = before.fillna("(left out)"), after.fillna("(left out)")
    changed = was.ne(now)
    return pd.crosstab(was[changed], now[changed], rownames=["was"], colnames=["is"])


def journal_in_use(run_dir: Path, journal: Path) -> Path:
    """The journal that notebook 03 wrote to: that of the simulated reviewer in the run, or the real one."""
    record = Path(run_dir) / "cleansing.json"
    simulated = record.exists() and runs.read_json(record)["simulated"]
    return Path(run_dir) / "simulated_decisions.csv" if simulated else Path(journal)


class Replay:
    """What is in force in a journal as it grows, in memory, as in `decisions_in_force`; read on from where it ended.

    `done` and `undone` hold the actions of `reviewer`, last one last, so that undo and redo go on where an earlier
    sitting ended; `seconds` is the time looked at, by all. Of second looks, only this reviewer's own are known.
    """

    def __init__(self, path: Path, *, reviewer: str = "") -> None:
        self.path, self.reviewer = Path(path), reviewer
        self.done: dict[str, None] = {}
        self.undone: dict[str, None] = {}
        self.seconds = 0.0
        # What was said, a list a column: a million lines as tuples would take three times the memory.
        self._said: dict[str, list[str]] = {name: [] for name in _KEPT}
        self._before: list[int] = []  # where the same content was spoken of before, or -1
        self._last: dict[str, int] = {}  # where it was last
        self._marks: dict[str, str] = {}  # the last one of each action
        self._escalations: dict[int, dict[str, Any]] = {}
        self._seen: tuple[int, ...] = ()  # the file's inode, size and time when it was read last
        self._end, self._ending = 0, b""  # up to which byte, and what stands before it
        self._time = ""  # of the last line

    def decision(self, sha256: str, kinds: Collection[str] = LABELLING, *, column: str = "decision") -> str:
        """What the last line of these kinds that stands says of this content, or its reviewer; "" if there is none."""
        place = self._standing(sha256, kinds)
        return self._said[column][place] if place >= 0 else ""

    def _standing(self, sha256: str, kinds: Collection[str]) -> int:
        place, (kind, action, *_) = self._last.get(sha256, -1), self._said.values()
        while place >= 0 and (kind[place] not in kinds or self._marks.get(action[place]) == "undo"):
            place = self._before[place]
        return place

    def escalated(self) -> list[Mapping[str, Any]]:
        """The lines, by column, that say which contents may not be shown."""
        lines = self._escalations.items()
        return [line for place, line in lines if self._standing(line["sha256"], LABELLING) == place]

    def catch_up(self) -> Collection[str]:
        """Read what was written to the journal since the last call; the sha256 whose decision may have changed.

        A FileNotFoundError where the journal is gone, a ValueError where it is no journal any more.
        """
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            if not self._end:
                return ()
            gone = f"The journal {self.path} is gone, so nobody knows what was decided and escalated. Put it back."
            raise FileNotFoundError(gone) from None
        with file:
            status = os.fstat(file.fileno())
            seen = (status.st_ino, status.st_size, status.st_mtime_ns)
            if seen == self._seen:
                return ()
            file.seek(self._end - len(self._ending))
            goes_on = self._end and file.read(len(self._ending)) == self._ending
            changed = self._take([*lines_of(self.path, file)]) if goes_on else None
            if changed is None:
                fresh = self._read_anew(file)  # where that fails, it fails again at the next call
                changed = {**self._last, **fresh._last}.keys()
                vars(self).update(vars(fresh))
            self._seen, self._end = seen, file.tell()
            file.seek(max(0, self._end - _ENDING))
            self._ending = file.read(min(self._end, _ENDING))
        return changed

    def _read_anew(self, file: BinaryIO) -> "Replay":
        file.seek(0)
        fresh, lines = Replay(self.path, reviewer=self.reviewer), lines_of(self.path, file)
        if fresh._take(lines) is None:
            fresh, table = Replay(self.path, reviewer=self.reviewer), read_journal(self.path)
            table["time"] = ["" if pd.isna(time) else time.isoformat() for time in table["time"]]  # as in the file
            fresh._take(table.itertuples(index=False, name=None))
            deque(lines, maxlen=0)  # up to where they end
        return fresh

    def _take(self, lines: Iterable[Sequence[Any]]) -> Collection[str] | None:
        """Take in more lines; returns the sha256 whose decision may have changed, None if their times run backwards."""
        first, marked, columns = len(self._before), set(), self._said.values()
        for line in lines:
            time, reviewer, kind, action, sha256, _, _, decision, _, _, seconds = line
            if time and time < self._time:
                return None
            self._time = time or self._time
            own = reviewer == self.reviewer
            if kind in MARKS:
                self._marks[action] = kind
                marked.add(action)
            elif kind in LABELLING or (own and kind in ("second", "known")):  # nobody else's business
                if decision == "escalate":
                    self._escalations[len(self._before)] = dict(zip(COLUMNS, line, strict=True))
                self._last[sha256], before = len(self._before), self._last.get(sha256, -1)
                self._before.append(before)
                for column, value in zip(columns, (kind, action, sha256, decision, reviewer), strict=True):
                    column.append(value)
            else:
                continue
            self.seconds += _number(seconds)
            if own and kind in MARKS:
                source, target = (self.done, self.undone) if kind == "undo" else (self.undone, self.done)
                if action in source:
                    del source[action]
                    target[action] = None
            elif own:
                self.undone.clear()
                self.done.pop(action, None)
                self.done[action] = None
        _, actions, contents, *_ = columns
        spoken = map(marked.__contains__, actions if marked else ())  # all of it, at the speed of C
        return dict.fromkeys([*contents[first:], *itertools.compress(contents, spoken)])


def _number(text: Any) -> float:
    """Seconds as any writer of a journal puts them; 0 for what is no number."""
    try:
        value = float(str(text).replace(",", "."))
    except ValueError:
        return 0.0
    return value if math.isfinite(value) else 0.0
