"""Which labels did people decide, and is every decision safely on disk?

The decisions journal is one append-only CSV file, one line a decision, and the only truth about corrected labels.
Lines are never changed: an undo is a line of its own. A decision belongs to the content (`sha256`), so it holds for
every exact copy and survives renamed and moved files.

**The label in force on a picture is its last decision, audit answer or resolution that is not undone, whoever took
it.** A second look never is: it only measures agreement, and where it differs somebody has to resolve it.

| column | meaning |
|---|---|
| `time` | UTC, ISO 8601 |
| `reviewer` | who decided, as they call themselves; may be empty |
| `kind` | `decision`; `audit`, `second`: blind answer, second look; `resolution` of a disagreement; `undo`, `redo` |
| `action` | lines decided in one go (one picture, or a whole page) share it; undo and redo name it |
| `sha256`, `path` | of the picture; the path is where it lay when it was decided |
| `given_label`, `suggested`, `score` | what was shown |
| `decision` | a class name, `keep`, `drop`, `unsure` or `escalate` |
| `seconds` | looked at, as far as it was measured |
"""

import os
import tempfile
import uuid
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nsfwlib.labels.records import (
    BOM,
    COLUMNS,
    encode,
    fsync_folder,
    locked,
    mended,
    records_of,
    whole_bytes,
    write_and_sync,
)

IN_FORCE = ("sha256", "path", "given_label", "decision", "reviewer", "time", "suggested", "score")
LABELLING = ("decision", "audit", "resolution")  # the kinds of lines that give a label
MARKS = ("undo", "redo")
ACTIONS = ("keep", "drop", "unsure", "escalate")  # what a decision says besides a class
WORDS = {"", *ACTIONS, *MARKS}  # no class may be called like one of these, in whatever case
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
        delimiter, last = mended(path) if path.exists() else (",", "")
        # Time never runs backwards in a file, whatever the clocks of its writers say: see `in_order_of_time`.
        now = max(datetime.now(UTC).isoformat(), last)
        filled = {"time": now, "kind": "decision", "action": new_action()}
        lines = [_line({**filled, **row}) for row in rows]
        for line in lines:
            _check_word(path, line)
        with path.open("ab", buffering=0) as file:
            start = file.seek(0, os.SEEK_END)
            data = encode(lines if start else [COLUMNS, *lines], delimiter)
            try:
                write_and_sync(file, data)
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
    data, delimiter, torn = whole_bytes(path)
    table = _frame(in_order_of_time(path, list(lines_of(path, data, delimiter))))
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
    return lines.iloc[[row for _, _, row in stands(rows, kinds, marks)]]


def stands(lines: Iterable[Said], kinds: Collection[str], marks: Mapping[str, str]) -> list[Said]:
    """The rule, for tables and sessions alike: which of these lines stand, by the last mark of each action."""
    return [line for line in lines if line[0] in kinds and marks.get(line[1]) != "undo"]


def _line(row: Mapping[str, Any]) -> list[str]:
    unknown = sorted(set(row) - set(COLUMNS))
    if unknown:
        raise ValueError(f"A journal line has the keys {list(COLUMNS)}. Received also: {unknown}")
    return [_text(row.get(column)) for column in COLUMNS]


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, (float, np.floating)) else str(value)


def lines_of(path: Path, data: bytes, delimiter: str, *, header: bool = True) -> Iterator[list[str]]:
    """The journal's lines in these bytes, which hold whole records."""
    for number, line in enumerate(records_of(data.removeprefix(BOM), delimiter), start=1):
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


def in_order_of_time(path: Path, lines: list[list[str]]) -> list[list[str]]:
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
