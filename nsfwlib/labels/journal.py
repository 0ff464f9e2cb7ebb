"""Which labels did people decide, and is every decision safely on disk?

The decisions journal is one append-only CSV file, one line a decision, and the only truth about corrected labels.
Lines are never changed: an undo is a line of its own. A decision belongs to the content (`sha256`), so it holds for
every exact copy and survives renamed and moved files.

**The label in force on a picture is its last decision or resolution that is not undone, whoever took it.** A second
look never is: it only measures agreement, and where it differs somebody has to resolve it.

| column | meaning |
|---|---|
| `time` | UTC, ISO 8601 |
| `reviewer` | who decided, as they call themselves; may be empty |
| `kind` | `decision`; `second`: a blind second look; `resolution` of a disagreement; `undo` / `redo` of an action |
| `action` | lines decided in one go (one picture, or a whole page) share it; undo and redo name it |
| `sha256`, `path` | of the picture; the path is where it lay when it was decided |
| `given_label`, `suggested`, `score` | what was shown |
| `decision` | a class name, `keep`, `drop`, `unsure` or `escalate` |
| `seconds` | looked at, as far as it was measured |
"""

from __future__ import annotations

import csv
import io
import itertools
import os
import re
import sys
import uuid
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pandas as pd

COLUMNS = (
    "time", "reviewer", "kind", "action", "sha256", "path",
    "given_label", "decision", "suggested", "score", "seconds",
)  # fmt: skip
IN_FORCE = ("sha256", "path", "given_label", "decision", "reviewer", "time", "suggested", "score")
LABELLING = ("decision", "resolution")  # the kinds of lines that give a label
MARKS = ("undo", "redo")
LOCK_SECONDS = 60
Said = tuple[str, str, Any]  # kind, action, and what was said


def new_action() -> str:
    """A name for lines that are decided, and undone, in one go."""
    return uuid.uuid4().hex[:16]


def append_decisions(path: Path, rows: Mapping[str, Any] | Iterable[Mapping[str, Any]]) -> tuple[int, int]:
    """Write lines at the end of the journal; they are on disk when this returns.

    Args:
        path: the CSV file; made, header and folder included, when it is not there.
        rows: one mapping or several with the keys of `COLUMNS`; what is missing is left empty, but `time`, `kind`
            and `action` are filled in. Several rows in one call share one action and one write.

    Returns:
        The byte at which the new lines begin, and the file's size after them.

    Raises:
        ValueError: a key is no column, or the file is not such a journal.
        TimeoutError: another writer held the lock for a minute.
    """
    path = Path(path)
    rows = [rows] if isinstance(rows, Mapping) else list(rows)
    filled = {"time": datetime.now(UTC).isoformat(), "kind": "decision", "action": new_action()}
    text = _encode([_line({**filled, **row}) for row in rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path), path.open("ab+", buffering=0) as file:
        _check_header(path, file)
        if not _ends_whole(file):
            _set_torn_tail_aside(path, file)
        start = file.seek(0, os.SEEK_END)
        data = text if start else _encode([COLUMNS]) + text
        try:
            _write_and_sync(file, data)
        except OSError:
            file.truncate(start)  # a full disk must not leave half an action behind
            raise
    if start == 0:
        fsync_folder(path.parent)
    return start, start + len(data)


def read_journal(path: Path) -> pd.DataFrame:
    """All lines of the journal in the order written, columns as in `COLUMNS` (`time` as UTC, numbers as floats).

    A missing file gives an empty table. An unfinished last line, as a killed process leaves it, is moved to
    `<name>.torn` beside the journal; `attrs["torn"]` then holds its text and a warning says so.

    Raises:
        ValueError: the file is not such a journal; says which line.
    """
    lines, torn = _read_whole(Path(path))
    table = _frame(lines)
    table.attrs["torn"] = torn.decode("utf-8", "replace")
    return table


def _read_whole(path: Path) -> tuple[list[list[str]], bytes]:
    torn = b""
    if not path.exists():
        return [], torn
    try:
        with locked(path), path.open("rb+", buffering=0) as file:
            _check_header(path, file)
            if not _ends_whole(file):
                torn = _set_torn_tail_aside(path, file)
            file.seek(0)
            data = file.read()
    except TimeoutError:
        raise
    except OSError:  # a journal that may only be read: leave the file as it is
        data = path.read_bytes()
        data, torn = data[: _whole_size(data)], data[_whole_size(data) :]
    return _parse(path, data)[1:], torn


def decisions_in_force(path: Path) -> pd.DataFrame:
    """The decisions in force, one row a picture (`sha256`): columns `IN_FORCE`. See `in_force` for the rule."""
    return in_force(read_journal(path))


def in_force(lines: pd.DataFrame) -> pd.DataFrame:
    """From all lines (as from `read_journal`) to one row a `sha256`: the last decision or resolution not undone.

    It does not matter who decided. Second looks and lines of any other kind are left alone.
    """
    last = standing(lines, *LABELLING).drop_duplicates("sha256", keep="last")
    return last[list(IN_FORCE)].reset_index(drop=True)


def standing(lines: pd.DataFrame, *kinds: str) -> pd.DataFrame:
    """The lines of these kinds whose action is not undone, in the order written.

    An action is undone when its last mark is `undo`; `redo` puts it back where it was.
    """
    are_marks = lines["kind"].isin(MARKS)
    marks = dict(lines.loc[are_marks, ["action", "kind"]].to_numpy())
    rows = zip(lines["kind"], lines["action"], range(len(lines)), strict=True)
    return lines.iloc[[row for _, _, row in _standing(rows, kinds, marks)]]


def _standing(lines: Iterable[Said], kinds: Collection[str], marks: Mapping[str, str]) -> list[Said]:
    """The rule, for tables and sessions alike: which of these lines stand, by the last mark of each action."""
    return [line for line in lines if line[0] in kinds and marks.get(line[1]) != "undo"]


class Replay:
    """What is in force in a journal as it grows, in memory; the rule is that of `in_force`.

    `decisions` maps sha256 to the decision in force, `looks` to this reviewer's own second look, `resolutions` to what
    ended a disagreement; `escalated` to the line that did it. `done` and `undone` are this reviewer's actions, last
    one last, so that undo and redo go on where an earlier sitting ended; `seconds` is the time looked at.

    Args:
        lines: of a journal, as from `read_journal`; or None, and `catch_up` reads them.
        path: the journal that `catch_up` follows.
        reviewer: whose actions and second looks these are.
    """

    def __init__(self, lines: pd.DataFrame | None = None, *, path: Path = Path(), reviewer: str = "") -> None:
        self.path, self.reviewer = Path(path), reviewer
        self._start_anew()
        if lines is not None:
            self.feed(lines.to_dict("records"))

    def _start_anew(self) -> None:
        self.decisions: dict[str, str] = {}
        self.looks: dict[str, str] = {}
        self.resolutions: dict[str, str] = {}
        self.escalated: dict[str, Mapping[str, Any]] = {}
        self.done: list[str] = []
        self.undone: list[str] = []
        self.seconds = 0.0
        self._said: dict[str, tuple[Said, ...]] = {}  # by sha256
        self._contents: dict[str, tuple[str, ...]] = {}  # by action
        self._marks: dict[str, str] = {}  # the last one of each action
        self._escalations: dict[tuple[str, str], Mapping[str, Any]] = {}  # by sha256 and action
        self._seen: tuple[int, ...] = ()  # the file's inode, size and time when it was read last
        self._end, self._last = 0, b""  # up to which byte, and what stands before it

    def catch_up(self) -> Collection[str]:
        """Read what was written to the journal since the last call; the sha256 whose decision may have changed.

        Raises:
            FileNotFoundError: the journal was there and is gone.
            ValueError: it is no journal any more; says which line.
        """
        try:
            status = self.path.stat()
        except FileNotFoundError:
            if not self._end:
                return ()
            raise FileNotFoundError(
                f"The journal {self.path} is gone, so nobody knows what was decided and escalated. Put it back."
            ) from None
        seen = (status.st_ino, status.st_size, status.st_mtime_ns)
        if seen == self._seen:
            return ()
        changed = self._read_on()
        if changed is None:
            was = self._said
            self._start_anew()
            self.feed(dict(zip(COLUMNS, line, strict=True)) for line in _read_whole(self.path)[0])
            status = self.path.stat()
            seen, self._end = (status.st_ino, status.st_size, status.st_mtime_ns), status.st_size
            self._last = self._before(self._end)
            changed = {**was, **self._said}.keys()
        self._seen = seen
        return changed

    def _before(self, end: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(max(0, end - 256))
            return file.read(min(256, end))

    def _read_on(self) -> Collection[str] | None:
        """Take in the whole lines behind those that were read; None if more than that has changed."""
        if not self._end or self._before(self._end) != self._last:
            return None
        with self.path.open("rb") as file:
            file.seek(self._end)
            data = file.read()
        if not data.endswith(b"\n") or _whole_size(data) < len(data):
            return None
        lines = _parse(self.path, data)
        self._end += len(data)
        self._last = (self._last + data)[-256:]
        return self.feed([dict(zip(COLUMNS, line, strict=True)) for line in lines])

    def feed(self, lines: Iterable[Mapping[str, Any]]) -> Collection[str]:
        """Take in more lines; returns the sha256 whose decision may have changed."""
        actions = {}
        for action, together in itertools.groupby(lines, lambda line: line["action"]):
            contents = self._take(action, list(together))
            self._contents[action] = (*self._contents.get(action, ()), *contents)
            actions[action] = True
        changed = {sha256: True for action in actions for sha256 in self._contents[action]}
        for sha256 in changed:
            self._settle(sha256)
        return changed.keys()

    def _take(self, action: str, lines: Sequence[Mapping[str, Any]]) -> list[str]:
        """Note lines of one action; the contents they speak of."""
        contents = []
        for line in lines:
            kind, own = line["kind"], line["reviewer"] == self.reviewer
            if kind in MARKS:
                self._marks[action] = kind
            elif kind in LABELLING or (kind == "second" and own):  # nobody's second look is another's business
                sha256, decision = line["sha256"], sys.intern(line["decision"])
                self._said[sha256] = (*self._said.get(sha256, ()), (sys.intern(kind), action, decision))
                contents.append(sha256)
                if decision == "escalate":
                    self._escalations[sha256, action] = {name: line[name] for name in IN_FORCE}
            else:
                continue
            self.seconds += np.nan_to_num(float(line["seconds"] or 0))
            if own:
                self._note(kind, action)
        return contents

    def _settle(self, sha256: str) -> None:
        """Find anew what is in force on one content."""
        results = ((self.decisions, LABELLING), (self.looks, ("second",)), (self.resolutions, ("resolution",)))
        for result, kinds in results:
            last = _standing(self._said[sha256], kinds, self._marks)[-1:]
            result.pop(sha256, None)
            result.update({sha256: decision for _, _, decision in last})
            if kinds == LABELLING:
                self.escalated.pop(sha256, None)
                self.escalated |= {
                    sha256: self._escalations[sha256, act] for _, act, word in last if word == "escalate"
                }

    def _note(self, kind: str, action: str) -> None:
        """What this reviewer can undo and redo after this line."""
        if kind in MARKS:
            source, target = (self.done, self.undone) if kind == "undo" else (self.undone, self.done)
            if action in source:
                source.remove(action)
                target.append(action)
        elif action not in self.done[-1:]:
            self.done.append(action)
            self.undone.clear()

    def concerned(self, action: str) -> tuple[str, ...]:
        """The contents that an action speaks of."""
        return self._contents.get(action, ())


def _line(row: Mapping[str, Any]) -> list[str]:
    unknown = sorted(set(row) - set(COLUMNS))
    if unknown:
        raise ValueError(f"A journal line has the keys {list(COLUMNS)}. Received also: {unknown}")
    return [_text(row.get(column)) for column in COLUMNS]


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, (float, np.floating)) else str(value)


def _encode(lines: Iterable[Iterable[str]]) -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(lines)
    return out.getvalue().encode("utf-8", "surrogateescape")


def _parse(path: Path, data: bytes) -> list[list[str]]:
    text = io.StringIO(data.decode("utf-8", "surrogateescape"), newline="")
    lines = [line for line in csv.reader(text) if line]
    for number, line in enumerate(lines, start=1):
        if len(line) != len(COLUMNS):
            raise ValueError(
                f"{path}: record {number} should have {len(COLUMNS)} fields. Received {len(line)}: {line!r}. "
                "Mend that line by hand, or restore the file from a copy."
            )
    return lines


def _frame(lines: list[list[str]]) -> pd.DataFrame:
    table = pd.DataFrame(lines, columns=list(COLUMNS), dtype=object)
    table["time"] = pd.to_datetime(table["time"], utc=True, format="ISO8601", errors="coerce")
    for column in ("score", "seconds"):
        table[column] = pd.to_numeric(table[column], errors="coerce").astype(float)
    return table


@contextmanager
def locked(path: Path, seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Nobody else writes this file meanwhile; a TimeoutError if somebody does for so long."""
    try:
        with filelock.FileLock(f"{path}.lock", timeout=seconds):
            yield
    except filelock.Timeout as error:
        raise TimeoutError(
            f"Another program has held {path}.lock for {seconds} s. Close it, or wait and try again."
        ) from error


def _write_and_sync(file: io.FileIO, data: bytes) -> None:
    while data:
        data = data[file.write(data) :]
    os.fsync(file.fileno())


def _check_header(path: Path, file: io.FileIO) -> None:
    file.seek(0)
    start = file.read(4096)
    header, newline, _ = start.partition(b"\n")
    if not newline:  # empty, or cut inside the header
        return
    names = next(csv.reader([header.decode("utf-8", "replace").strip("\r")]))
    if names != list(COLUMNS):
        raise ValueError(
            f"{path} should be a decisions journal with the columns {list(COLUMNS)}. Received: {names}. "
            "Give another file name, or move this file away."
        )


def _ends_whole(file: io.FileIO, *, tail: int = 65536) -> bool:
    """Whether the file's last line is a whole record, judged from its end alone.

    Every field is quoted and quotes inside are doubled, so inside a field no line begins with a single quote and
    a word character: such a line starts a record, and with an even number of quotes it also ends there.
    """
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return True
    file.seek(max(0, size - tail))
    *_, last, after = (b"\n" + file.read()).split(b"\n")
    return after == b"" and re.match(rb'"\w', last) is not None and last.count(b'"') % 2 == 0


def _whole_size(data: bytes) -> int:
    """How many of these bytes are whole records: up to the last newline that lies outside of quotes."""
    array = np.frombuffer(data, np.uint8)
    outside = np.cumsum(array == ord('"')) % 2 == 0
    ends = np.flatnonzero((array == ord("\n")) & outside)
    return int(ends[-1]) + 1 if len(ends) else 0


def _set_torn_tail_aside(path: Path, file: io.FileIO) -> bytes:
    file.seek(0)
    data = file.read()
    size = _whole_size(data)
    torn = data[size:]
    if not torn:
        return b""
    aside = path.with_name(path.name + ".torn")
    with aside.open("ab", buffering=0) as out:
        _write_and_sync(out, torn + b"\n")
    file.truncate(size)
    os.fsync(file.fileno())
    warnings.warn(
        f"{path}: the last line was unfinished, as a killed program leaves it. It was moved to {aside.name} "
        f"({len(torn)} bytes); decide that picture again.",
        stacklevel=3,
    )
    return torn


def fsync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut; no effect where a system knows no such thing."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
