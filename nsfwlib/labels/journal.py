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
| `kind` | `decision`; `audit`, `second`, `known`: blind; `resolution`; `note`; `reveal`; `undo`, `redo` |
| `action` | lines decided in one go (one picture, or a whole page) share it; undo and redo name it |
| `sha256`, `path` | of the picture; the path is where it lay when it was decided |
| `given_label`, `suggested`, `score` | what was shown |
| `decision` | a class name, `keep`, `drop`, `unsure` or `escalate` |
| `seconds` | looked at, as far as it was measured |
"""

import itertools
import os
import sys
import tempfile
import uuid
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
import pandas as pd

from nsfwlib.data import DECISION_WORDS, may_be_class
from nsfwlib.labels.records import COLUMNS, append_whole, before_next, encode, fsync_folder, locked, records_of

IN_FORCE = ("sha256", "path", "given_label", "decision", "reviewer", "time", "suggested", "score")
LABELLING = ("decision", "audit", "resolution")  # the kinds of lines that give a label
ACTIONS, MARKS = DECISION_WORDS[:4], DECISION_WORDS[4:]  # what a decision says besides a class; what takes it back
_KIND, _SHA256, _DECISION = (COLUMNS.index(name) for name in ("kind", "sha256", "decision"))
_REPEATED = [COLUMNS.index(name) for name in ("reviewer", "kind", "given_label", "decision", "suggested")]
BLOCK = 50_000  # lines that are text at once; a table of a million is an eighth of its text


def append_decisions(path: Path, rows: Mapping[str, Any] | Iterable[Mapping[str, Any]]) -> None:
    """Write lines at the end of the journal; they are on disk when this returns.

    The file is made where it is not there. A row has keys of `COLUMNS`; what is missing is left empty, but `time`,
    `kind` and `action` are filled in: several rows in one call share one action and one write.

    Raises:
        ValueError: a key is no column, a decision is no such word, or the file is not such a journal.
        TimeoutError: another writer held the lock for a minute.
        OSError: it cannot be written; the sentence names the file and the way out.
    """
    path = Path(path)
    rows = [rows] if isinstance(rows, Mapping) else list(rows)
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path):
            delimiter, last, ending = before_next(path) if path.exists() else (",", "", encode([COLUMNS], ","))
            # Time never runs backwards in a file, whatever the clocks of its writers say: see `_by_time`.
            now, action = max(datetime.now(UTC).isoformat(), last), uuid.uuid4().hex[:16]
            lines = [_line(path, {"time": now, "kind": "decision", "action": action, **row}) for row in rows]
            with path.open("ab") as file:
                start = file.tell()
                append_whole(file.fileno(), ending + encode(lines, delimiter))
        if start == 0:
            fsync_folder(path.parent)


def check_writable(path: Path) -> None:
    """An OSError that names the way out if the journal cannot be written, before anybody decides; makes none."""
    folder = next(folder for folder in Path(path).absolute().parents if os.path.lexists(folder))
    with _explained(path):
        with tempfile.TemporaryFile(dir=folder) as file:  # the lock lies beside the journal
            append_whole(file.fileno(), bytes(4096))  # a full disk takes a name, but nothing inside
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
            f"The journal {path} cannot be written: {error.strerror}. What was decided before is safe, nothing "
            "more was taken. Free some space, change the permissions of the file and its folder, or name another "
            "journal_file.",
        ) from error


def read_journal(path: Path) -> pd.DataFrame:
    """All lines of the journal in the order written, columns as in `COLUMNS` (`time` as UTC, numbers as floats).

    A missing file gives an empty table. What a spreadsheet makes of a journal is read: a byte-order mark, CRLF, no
    quotes, semicolons. Where times run backwards, as after a merge of two copies, lines are put in the order of their
    times; a damaged one, as a killed process leaves it, is left out; of both a warning tells. A ValueError names the
    line where a decision is no such word, or says that the file is no such journal.
    """
    path = Path(path)
    if not path.exists():
        return _frame([])
    with path.open("rb") as file:
        lines = lines_of(path, file)
        blocks = iter(lambda: list(itertools.islice(lines, BLOCK)), [])
        return _by_time(path, pd.concat([_frame([]), *map(_frame, blocks)], ignore_index=True))


def decisions_in_force(journal: Path | pd.DataFrame) -> pd.DataFrame:
    """The decisions in force by the rule above, one row a picture (`sha256`): columns `IN_FORCE`. A table stays."""
    return journal if isinstance(journal, pd.DataFrame) else in_force(read_journal(journal))


def in_force(lines: pd.DataFrame) -> pd.DataFrame:
    """The same of lines as from `read_journal`."""
    last = standing(lines, *LABELLING).drop_duplicates("sha256", keep="last")
    return last[list(IN_FORCE)].reset_index(drop=True)


def standing(lines: pd.DataFrame, *kinds: str) -> pd.DataFrame:
    """The lines of these kinds whose action is not undone, in the order written.

    An action is undone when its last mark is `undo`; `redo` puts it back where it was.
    """
    marks = lines[lines["kind"].isin(MARKS)].drop_duplicates("action", keep="last")
    undone = marks.loc[marks["kind"] == "undo", "action"]
    return lines[lines["kind"].isin(kinds) & ~lines["action"].isin(undone)]


def _line(path: Path, row: Mapping[str, Any]) -> list[str]:
    if unknown := sorted(set(row) - set(COLUMNS)):
        raise ValueError(f"A journal line has the keys {list(COLUMNS)}. Received also: {unknown}")
    line = [_text(row.get(column)) for column in COLUMNS]
    _check_word(path, line)
    return line


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    text = f"{value:.6g}" if isinstance(value, (float, np.floating)) else str(value)
    return text.replace("\n", "\\u000a").replace("\r", "\\u000d")  # a record is one line; as paths in tables have it


def lines_of(path: Path, file: BinaryIO) -> Iterator[list[str]]:
    """The journal's lines from where the file stands, as `records_of` has them."""
    for number, line in enumerate(records_of(path, file), start=1):
        if line != list(COLUMNS):
            for i in _REPEATED:  # of a million lines, these few words are held once
                line[i] = sys.intern(line[i])
            _check_word(path, line, f"record {number}: ")
            yield line


def _check_word(path: Path, line: Sequence[str], where: str = "") -> None:
    """A decision that nobody can have meant is a ValueError: `Keep` would be a class of its own."""
    word = line[_DECISION]
    if line[_KIND] in (*LABELLING, "second") and word not in ACTIONS and not may_be_class(word):
        expected = f"{path}: {where}decision should be one of {', '.join(ACTIONS)}, or a class without quotes."
        raise ValueError(f"{expected} Received: {word!r}. Correct that word, with a text editor where the file has it.")


def refuse_class(journal: Path | pd.DataFrame, sha256: str, word: str, classes: Collection[str]) -> NoReturn:
    """A ValueError for a decision in force that is none of these classes; names the record where a file has it."""
    where = "the decisions"
    if not isinstance(journal, pd.DataFrame):
        with Path(journal).open("rb") as file:
            said = enumerate(((line[_SHA256], line[_DECISION]) for line in lines_of(Path(journal), file)), start=2)
            where = f"{journal}: record {max(number for number, each in said if each == (sha256, word))}"
    raise ValueError(
        f"{where}: decision should be one of the classes {', '.join(sorted(classes))}, or {', '.join(ACTIONS)}. "
        f"Received: {word!r}, a class that no folder has, such as 05_score_images may write of others. Correct that "
        f"word in the file or decide the picture again in 03_cleanse_labels; if it is meant, make a folder {word!r} "
        f"with a picture, or pass new_classes=[{word!r}]."
    )


def _by_time(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """The lines by time where the file has them otherwise: after a merge an older decision may stand last."""
    times = table["time"].ffill()
    if times.is_monotonic_increasing or times.dropna().is_monotonic_increasing:
        return table
    first = int(np.flatnonzero(times.diff() < pd.Timedelta(0))[0])
    warnings.warn(
        f"{path}: times run backwards at record {first + 2}, as after a merge of two copies. Its lines are read in the "
        "order of their times, so that the later decision is in force.",
        stacklevel=3,
    )
    return table.iloc[times.argsort(kind="stable")].reset_index(drop=True)


def _frame(lines: list[list[str]]) -> pd.DataFrame:
    table = pd.DataFrame(lines, columns=list(COLUMNS), dtype=object)
    table["time"] = pd.to_datetime(table["time"], utc=True, format="ISO8601", errors="coerce")
    for column in ("score", "seconds"):
        table[column] = pd.to_numeric(table[column].str.replace(",", "."), errors="coerce").astype(float)
    return table
