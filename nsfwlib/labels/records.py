"""What stands in the journal's file, and what of it is damaged? A record is a line; one writer at a time."""

import csv
import io
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import filelock

COLUMNS = (
    "time", "reviewer", "kind", "action", "sha256", "path",
    "given_label", "decision", "suggested", "score", "seconds",
)  # fmt: skip
BOM = b"\xef\xbb\xbf"
LOCK_SECONDS = 60
LONGEST = 65536  # bytes of a record


def encode(lines: Iterable[Iterable[str]], delimiter: str) -> bytes:
    """Records as the journal holds them: every field quoted, quotes inside doubled."""
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(lines)
    return out.getvalue().encode("utf-8", "surrogateescape")


def records_of(path: Path, file: BinaryIO) -> Iterator[list[str]]:
    """The whole records from where the file stands, up to behind the last one; a warning tells what is damaged."""
    start = file.tell()
    file.seek(0)
    delimiter = _delimiter(path, file.read(4096))
    file.seek(start)
    begun, damaged = b"", []  # not a record as yet: other programs may write one in several lines
    for line in file:
        alone = _record(line, delimiter)
        record = alone or (begun and _record(begun + line, delimiter))
        if begun and (alone or len(begun) > LONGEST):
            damaged.append(begun)
            begun = b""
        if record:
            begun = b""
            yield record
        elif begun or line.strip():
            begun += line
    if begun:
        file.seek(-len(begun), os.SEEK_CUR)
        damaged.append(begun)
    if damaged:
        warnings.warn(
            f"{path}: lines left out as damaged, or unfinished as a killed program leaves them: {len(damaged)}. All "
            f"others stay. The first: {damaged[0][:200]!r}. Mend it with a text editor, or decide that picture again.",
            stacklevel=2,
        )


def _record(line: bytes, delimiter: str) -> list[str]:
    """The fields of a whole record; none if it is none."""
    text = line.removeprefix(BOM).decode("utf-8", "surrogateescape")
    try:
        fields = next(csv.reader([text], delimiter=delimiter, strict=True))
    except csv.Error:
        return []
    return fields if len(fields) == len(COLUMNS) and text.endswith("\n") else []


@contextmanager
def locked(path: Path, seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Nobody else writes this file meanwhile; a TimeoutError if somebody does for so long."""
    try:
        with filelock.FileLock(f"{Path(path).resolve()}.lock", timeout=seconds):  # one lock, however it is spelled
            yield
    except filelock.Timeout as error:
        said = f"Another program has held {path}.lock for {seconds} s. Close it, or wait and try again."
        raise TimeoutError(said) from error


def append_whole(fd: int, data: bytes, *, sync: bool = True) -> None:
    """Write at the end of an open file, all or nothing; with `sync` it is on the disk when this returns."""
    size = os.fstat(fd).st_size
    try:
        while data:
            data = data[os.write(fd, data) :]
        if sync:
            os.fsync(fd)
    except OSError:
        os.ftruncate(fd, size)  # a full disk must not leave half a line behind
        raise


def _delimiter(path: Path, start: bytes) -> str:
    """What stands between the fields of a journal that begins like this; a ValueError if it is none."""
    header = start.removeprefix(BOM).partition(b"\n")[0].decode("utf-8", "replace").strip("\r")
    delimiter = max(",;\t", key=header.count)
    names = next(csv.reader([header], delimiter=delimiter), [])
    if names == list(COLUMNS) or encode([COLUMNS], ",").startswith(start):  # empty, or cut inside the header
        return delimiter
    expected = f"{path} should be a decisions journal with the columns {list(COLUMNS)}."
    raise ValueError(f"{expected} Received: {names}. Give another file name, or move this file away.")


def before_next(path: Path) -> tuple[str, str, bytes]:
    """Under the lock: the journal's delimiter, its last time, and what has to stand before a line that follows."""
    header = encode([COLUMNS], ",")
    with path.open("rb") as file:
        start = file.read(4096)
        file.seek(max(0, os.fstat(file.fileno()).st_size - LONGEST))
        last = (file.readlines() or [b""])[-1]
    if header.startswith(start):
        return ",", "", header[len(start) :]
    time = re.match(rb'"?(\d{4}-\d\d-\d\dT[\d:.]+\+00:00)\b', last)
    ends = b"" if last.endswith(b"\n") else b"\n"
    return _delimiter(path, start), time[1].decode() if time else "", ends


def fsync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut; no effect where a system knows no such thing."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
