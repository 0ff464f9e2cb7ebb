"""What stands in the journal's file, and what of it is damaged? Records, whole or put aside; one writer at a time."""

import csv
import io
import itertools
import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import filelock

from nsfwlib.files import write_whole

COLUMNS = (
    "time", "reviewer", "kind", "action", "sha256", "path",
    "given_label", "decision", "suggested", "score", "seconds",
)  # fmt: skip
BOM = b"\xef\xbb\xbf"
LOCK_SECONDS = 60


def encode(lines: Iterable[Iterable[str]], delimiter: str) -> bytes:
    """Records as the journal holds them: every field quoted, quotes inside doubled."""
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(lines)
    return out.getvalue().encode("utf-8", "surrogateescape")


def records_of(source: bytes | Path, delimiter: str, size: int = sys.maxsize) -> Iterator[list[str]]:
    """Records in these bytes, or in the first `size` bytes of this file, which is never held as a whole.

    A csv.Error where quotes do not fit, or the last record has no end.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        yield from filter(None, csv.reader(_text(file, size), delimiter=delimiter, strict=True))


def _text(file: BinaryIO, size: int) -> Iterator[str]:
    if file.read(len(BOM)) != BOM:
        file.seek(0)
    size, line = size - file.tell(), b"\n"
    while following := file.readline(size):
        size, line = size - len(following), following
        yield line.decode("utf-8", "surrogateescape")
    if not line.endswith(b"\n"):
        raise csv.Error("the last record has no end")


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


def write_and_sync(file: io.FileIO, data: bytes) -> None:
    """All of it, and on the disk."""
    while data:
        data = data[file.write(data) :]
    os.fsync(file.fileno())


def _delimiter(path: Path, start: bytes) -> str:
    """What stands between the fields of a journal that begins like this; a ValueError if it is none."""
    header, newline, _ = start.removeprefix(BOM).partition(b"\n")
    text = header.decode("utf-8", "replace").strip("\r")
    delimiter = max(",;\t", key=text.count)
    names = next(csv.reader([text], delimiter=delimiter), [])
    if names == list(COLUMNS) or not newline:  # empty, or cut inside the header
        return delimiter
    raise ValueError(
        f"{path} should be a decisions journal with the columns {list(COLUMNS)}. Received: {names}. "
        "Give another file name, or move this file away."
    )


def mended(path: Path, *, tail: int = 65536) -> tuple[str, str]:
    """Make sure, under the lock, that a line can follow the file's last one → its delimiter, and the last time."""
    with path.open("rb") as file:
        delimiter = _delimiter(path, file.read(4096))
        file.seek(max(0, os.fstat(file.fileno()).st_size - tail))
        last = (file.readlines() or [b""])[-1]
    if last and not is_whole(last, delimiter, n=1):  # a record is one line; where it does not tell, all of them must
        _set_damage_aside(path, delimiter)
    time = re.match(rb'"?(\d{4}-\d\d-\d\dT[\d:.]+\+00:00)\b', last)
    return delimiter, time[1].decode() if time else ""


def whole(path: Path) -> tuple[bytes | Path, str, int]:
    """Where the journal's whole records are, its delimiter, up to which byte; what was damaged is set aside."""
    with path.open("rb") as file:
        delimiter, size = _delimiter(path, file.read(4096)), os.fstat(file.fileno()).st_size
    if is_whole(path, delimiter, size):
        return path, delimiter, size
    try:
        with locked(path):  # whoever is writing a line has finished it by now
            _set_damage_aside(path, delimiter)
            return path, delimiter, path.stat().st_size
    except TimeoutError:
        raise
    except OSError:  # a journal that may only be read: leave the file as it is
        kept, *_ = _sifted(path.read_bytes(), delimiter)
        return kept, delimiter, len(kept)


def is_whole(source: bytes | Path, delimiter: str, size: int = sys.maxsize, *, n: int | None = None) -> bool:
    """Whether these are records from the first to the last; with `n`, that many of that many fields."""
    try:
        fields = [len(line) for line in records_of(source, delimiter, size)]
    except csv.Error:
        return False
    return n is None or fields == n * [len(COLUMNS)]


def _sifted(data: bytes, delimiter: str) -> tuple[bytes, bytes, int]:
    """The lines that are a record each (or blank), those that are not, and the number of the first of these."""
    lines = io.BytesIO(data).readlines()
    good = [is_whole(line, delimiter, n=1) or not line.strip() for line in lines]
    damaged = b"".join(line for line, fits in zip(lines, good, strict=True) if not fits)
    return b"".join(itertools.compress(lines, good)), damaged, good.index(False) + 1


def _set_damage_aside(path: Path, delimiter: str) -> None:
    path = path.resolve()  # what a link leads to is replaced, not the link
    if is_whole(path, delimiter):
        return
    data = path.read_bytes()
    kept, torn, line = _sifted(data, delimiter)
    aside = path.with_name(path.name + ".torn")
    with aside.open("ab", buffering=0) as out:
        write_and_sync(out, torn + b"\n")
    if data.startswith(kept):
        with path.open("rb+", buffering=0) as file:
            file.truncate(len(kept))
            os.fsync(file.fileno())
    else:
        with write_whole(path) as draft, draft.open("xb", buffering=0) as file:
            write_and_sync(file, kept)
    warnings.warn(
        f"{path}: line {line} was unfinished, as a killed program leaves it, or damaged. It was moved to {aside.name} "
        f"({len(torn)} bytes), all others stay; decide that picture again.",
        stacklevel=4,
    )


def fsync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut; no effect where a system knows no such thing."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
