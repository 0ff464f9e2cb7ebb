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

import csv
import io
import itertools
import os
import re
import sys
import tempfile
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

from nsfwlib.files import write_whole

COLUMNS = (
    "time", "reviewer", "kind", "action", "sha256", "path",
    "given_label", "decision", "suggested", "score", "seconds",
)  # fmt: skip
IN_FORCE = ("sha256", "path", "given_label", "decision", "reviewer", "time", "suggested", "score")
LABELLING = ("decision", "resolution")  # the kinds of lines that give a label
MARKS = ("undo", "redo")
ACTIONS = ("keep", "drop", "unsure", "escalate")  # what a decision says besides a class
WORDS = {"", *ACTIONS, *MARKS}  # no class may be called like one of these, in whatever case
BOM = b"\xef\xbb\xbf"
LOCK_SECONDS = 60
_KIND, _DECISION = COLUMNS.index("kind"), COLUMNS.index("decision")
_TIMES: dict[str, Any] = {"utc": True, "format": "ISO8601", "errors": "coerce"}
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
        ValueError: a key is no column, a decision is no such word, or the file is not such a journal.
        TimeoutError: another writer held the lock for a minute.
        OSError: it cannot be written; the sentence names the file and the way out.
    """
    path = Path(path)
    rows = [rows] if isinstance(rows, Mapping) else list(rows)
    with _explained(path):
        return _append(path, rows)


def check_writable(path: Path) -> None:
    """Find out before anybody decides whether the journal can be written; it is not made by that.

    Raises:
        OSError: it cannot; the sentence names the file and the way out.
    """
    folder = next(folder for folder in Path(path).absolute().parents if os.path.lexists(folder))
    with _explained(path):
        tempfile.TemporaryFile(dir=folder).close()  # the lock lies beside the journal
        if os.path.lexists(path):
            Path(path).open("ab").close()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """An error of the operating system as a sentence that names the journal."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # a sentence already
            raise
        raise OSError(
            error.errno,
            f"The journal {path} cannot be written: {error.strerror}. This decision was not taken, those before are "
            "safe. Free some space, change the permissions of the file and its folder, or name another journal_file.",
        ) from error


def _append(path: Path, rows: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path):
        delimiter, last = _mended(path) if path.exists() else (",", "")
        # Time never runs backwards in a file, whatever the clocks of its writers say: see `_in_order`.
        now = max(datetime.now(UTC).isoformat(), last)
        filled = {"time": now, "kind": "decision", "action": new_action()}
        lines = [_line({**filled, **row}) for row in rows]
        for line in lines:
            _check_word(path, line)
        with path.open("ab", buffering=0) as file:
            start = file.seek(0, os.SEEK_END)
            data = _encode(lines if start else [COLUMNS, *lines], delimiter)
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

    A missing file gives an empty table. What a spreadsheet makes of a journal is read: a byte-order mark, CRLF, no
    quotes, semicolons. Where times run backwards, as after a merge of two copies, lines are put in the order of their
    times, and a warning says so. A damaged record, such as the unfinished last line that a killed process leaves, is
    moved to `<name>.torn` beside the journal; `attrs["torn"]` then holds its text and a warning says so.

    Raises:
        ValueError: the file is not such a journal, or a decision no such word; says which line.
    """
    path, torn = Path(path), b""
    if not path.exists():
        return _frame([])
    data, delimiter, torn = _whole_bytes(path)
    table = _frame(_in_order(path, list(_lines(path, data, delimiter))))
    table.attrs["torn"] = torn.decode("utf-8", "replace")
    return table


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


class _Backwards(Exception):
    """Times run backwards: the lines have to be put in order first."""


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
        self._time, self._delimiter = "", ","  # of the last line, of the file

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
            fresh = Replay(path=self.path, reviewer=self.reviewer)
            fresh._read_all()  # where that fails, it fails again at the next call
            changed = {**self._said, **fresh._said}.keys()
            vars(self).update(vars(fresh))
        else:
            self._seen = seen
        return changed

    def _read_on(self) -> Collection[str] | None:
        """Take in the whole lines behind those that were read; None if more than that has changed."""
        if not self._end:
            return None
        with self.path.open("rb") as file:
            file.seek(self._end - len(self._last))
            before, data = file.read(len(self._last)), file.read()
        if before != self._last or not _is_whole(data, self._delimiter):
            return None
        lines = list(_lines(self.path, data, self._delimiter, header=False))
        times = [time for time in (self._time, *(line[0] for line in lines)) if time]
        if times != sorted(times):
            return None
        self._end, self._last = self._end + len(data), (self._last + data)[-256:]
        return self._feed(lines)

    def _read_all(self) -> None:
        data, delimiter, _ = _whole_bytes(self.path)
        status = self.path.stat()
        try:
            self._feed(_lines(self.path, data, delimiter), in_order=True)
        except _Backwards:
            self._start_anew()
            self._feed(_in_order(self.path, list(_lines(self.path, data, delimiter))))
        self._delimiter, self._end, self._last = delimiter, len(data), data[-256:]
        if status.st_size == len(data):
            self._seen = (status.st_ino, status.st_size, status.st_mtime_ns)

    def _feed(self, lines: Iterable[list[str]], *, in_order: bool = False) -> Collection[str]:
        return self.feed(self._dated(lines, in_order))

    def _dated(self, lines: Iterable[list[str]], in_order: bool) -> Iterator[Mapping[str, Any]]:
        for line in lines:
            if in_order and line[0] and line[0] < self._time:
                raise _Backwards
            self._time = line[0] or self._time
            yield dict(zip(COLUMNS, line, strict=True))

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
            result.update((sha256, decision) for _, _, decision in last)
            if kinds == LABELLING:
                self.escalated.pop(sha256, None)
                escalated = [action for _, action, decision in last if decision == "escalate"]
                self.escalated.update((sha256, self._escalations[sha256, action]) for action in escalated)

    def _note(self, kind: str, action: str) -> None:
        """What this reviewer can undo and redo after this line."""
        if kind in MARKS:
            source, target = (self.done, self.undone) if kind == "undo" else (self.undone, self.done)
            if source[-1:] == [action]:  # nearly always, and there may be a million of them
                target.append(source.pop())
            elif action in source:
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


def _encode(lines: Iterable[Iterable[str]], delimiter: str) -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(lines)
    return out.getvalue().encode("utf-8", "surrogateescape")


def _records(data: bytes, delimiter: str) -> Iterator[list[str]]:
    """Records as they stand in these bytes; a csv.Error where quotes do not fit."""
    text = io.TextIOWrapper(io.BytesIO(data), "utf-8", "surrogateescape", newline="")
    return (line for line in csv.reader(text, delimiter=delimiter, strict=True) if line)


def _lines(path: Path, data: bytes, delimiter: str, *, header: bool = True) -> Iterator[list[str]]:
    """The journal's lines in these bytes, which hold whole records."""
    for number, line in enumerate(_records(data.removeprefix(BOM), delimiter), start=1):
        if len(line) != len(COLUMNS):
            raise ValueError(
                f"{path}: record {number} should have {len(COLUMNS)} fields. Received {len(line)}: {line!r}. "
                "Mend that line by hand, or restore the file from a copy."
            )
        if not header or number > 1:
            _check_word(path, line, f"record {number}: ")
            yield line


def _check_word(path: Path, line: Sequence[str], where: str = "") -> None:
    """A decision that nobody can have meant is a ValueError: `Keep` would be a class of its own."""
    word = line[_DECISION]
    if line[_KIND] in (*LABELLING, "second") and word not in ACTIONS and not may_be_class(word):
        raise ValueError(
            f"{path}: {where}decision should be one of {', '.join(ACTIONS)}, or a class without quotes. "
            f"Received: {word!r}. Correct that word, with a text editor where the file has it."
        )


def may_be_class(name: str) -> bool:
    """Whether a class of this name can be told from a decision, however a person writes it."""
    return name.casefold() not in WORDS and name == name.strip().strip("\"'`")


def _in_order(path: Path, lines: list[list[str]]) -> list[list[str]]:
    """The lines by time where the file has them otherwise: after a merge an older decision may stand last."""
    times = pd.to_datetime(pd.Series([line[0] for line in lines], dtype=object), **_TIMES).ffill()
    if times.is_monotonic_increasing or times.dropna().is_monotonic_increasing:
        return lines
    first = int(np.flatnonzero(times.diff() < pd.Timedelta(0))[0])
    warnings.warn(
        f"{path}: times run backwards at record {first + 2}, as after a merge of two copies. Its lines are read in the "
        "order of their times, so that the later decision is in force.",
        stacklevel=3,
    )
    return [lines[row] for row in times.argsort(kind="stable")]


def _frame(lines: list[list[str]]) -> pd.DataFrame:
    table = pd.DataFrame(lines, columns=list(COLUMNS), dtype=object)
    table["time"] = pd.to_datetime(table["time"], **_TIMES)
    for column in ("score", "seconds"):
        table[column] = pd.to_numeric(table[column].str.replace(",", "."), errors="coerce").astype(float)
    return table


@contextmanager
def locked(path: Path, seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Nobody else writes this file meanwhile; a TimeoutError if somebody does for so long."""
    try:
        with filelock.FileLock(f"{Path(path).resolve()}.lock", timeout=seconds):  # one lock, however it is spelled
            yield
    except filelock.Timeout as error:
        raise TimeoutError(
            f"Another program has held {path}.lock for {seconds} s. Close it, or wait and try again."
        ) from error


def _write_and_sync(file: io.FileIO, data: bytes) -> None:
    while data:
        data = data[file.write(data) :]
    os.fsync(file.fileno())


def _delimiter(path: Path, start: bytes) -> str:
    """What stands between the fields of a journal that begins like this; a ValueError if it is none."""
    header, newline, _ = start.removeprefix(BOM).partition(b"\n")
    text = header.decode("utf-8", "replace").strip("\r")
    names = {delimiter: next(csv.reader([text], delimiter=delimiter), []) for delimiter in ",;\t"}
    for delimiter, found in names.items():
        if found == list(COLUMNS) or not newline:  # empty, or cut inside the header
            return delimiter
    raise ValueError(
        f"{path} should be a decisions journal with the columns {list(COLUMNS)}. Received: {names[',']}. "
        "Give another file name, or move this file away."
    )


def _mended(path: Path, *, tail: int = 65536) -> tuple[str, str]:
    """Make sure, under the lock, that a line can follow the file's last one → its delimiter, and the last time.

    Every field is quoted and quotes inside are doubled, so inside a field no line begins with a single quote and
    a word character: such a line starts a record, and may also end it. Where that does not tell, as in a file from a
    spreadsheet, the whole file is read.
    """
    with path.open("rb") as file:
        delimiter = _delimiter(path, file.read(4096))
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - tail))
        *_, last, after = (b"\n" + file.read()).split(b"\n")
    if size == 0 or (after == b"" and re.match(rb'"\w', last) and _is_whole(last + b"\n", delimiter)):
        lines = list(_records(last, delimiter))
    else:
        _set_damage_aside(path, delimiter)
        lines = list(_records(path.read_bytes(), delimiter))
    last_time = lines[-1][0] if lines else ""
    return delimiter, last_time if re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", last_time) else ""


def _whole_bytes(path: Path) -> tuple[bytes, str, bytes]:
    """The journal's whole records, its delimiter, and what was damaged and has been set aside."""
    data = path.read_bytes()
    delimiter = _delimiter(path, data[:4096])
    if _is_whole(data, delimiter):
        return data, delimiter, b""
    try:
        with locked(path):  # whoever is writing a line has finished it by now
            torn = _set_damage_aside(path, delimiter)
            return path.read_bytes(), delimiter, torn
    except TimeoutError:
        raise
    except OSError:  # a journal that may only be read: leave the file as it is
        whole, torn, _ = _sifted(data, delimiter)
        return whole, delimiter, torn


def _is_whole(data: bytes, delimiter: str, *, n: int | None = None) -> bool:
    """Whether these bytes are records from the first to the last; with `n`, that many of that many fields."""
    try:
        fields = [len(line) for line in _records(data, delimiter)]
    except csv.Error:
        return False
    ends = not data or data.endswith(b"\n")
    return ends and (n is None or fields == n * [len(COLUMNS)])


def _sifted(data: bytes, delimiter: str, *, reach: int = 8) -> tuple[bytes, bytes, int]:
    """What is whole, what is damaged, and in which line that begins.

    A record starts where a line begins with a quote and a word character, or with a date. One that is not whole up to
    the next start may have such a line inside: so it is tried up to those that follow.
    """
    found = {match.start() for match in re.finditer(rb'^(?:"\w|\d{1,4}[-./]\d)', data, re.M)}
    starts = sorted(found | {0, data.rfind(b"\n") + 1, len(data)})
    whole, damaged, first, i = [], [], 0, 0
    while i < len(starts) - 1:
        ends = range(i + 1, min(i + 1 + reach, len(starts)))
        pieces = ((end, data[starts[i] : starts[end]]) for end in ends)
        good = (end for end, piece in pieces if _is_whole(piece, delimiter, n=None if end == i + 1 else 1))
        end = next(good, None)
        piece = data[starts[i] : starts[end or i + 1]]
        (damaged if end is None else whole).append(piece)
        first = first or (end is None) * (data[: starts[i]].count(b"\n") + 1)
        i = end or i + 1
    return b"".join(whole), b"".join(damaged), first


def _set_damage_aside(path: Path, delimiter: str) -> bytes:
    path = path.resolve()  # what a link leads to is replaced, not the link
    data = path.read_bytes()
    if _is_whole(data, delimiter):
        return b""
    whole, torn, line = _sifted(data, delimiter)
    aside = path.with_name(path.name + ".torn")
    with aside.open("ab", buffering=0) as out:
        _write_and_sync(out, torn + b"\n")
    if data.startswith(whole):
        with path.open("rb+", buffering=0) as file:
            file.truncate(len(whole))
            os.fsync(file.fileno())
    else:
        with write_whole(path) as draft, draft.open("xb", buffering=0) as file:
            _write_and_sync(file, whole)
    warnings.warn(
        f"{path}: line {line} was unfinished, as a killed program leaves it, or damaged. It was moved to {aside.name} "
        f"({len(torn)} bytes), all others stay; decide that picture again.",
        stacklevel=4,
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
