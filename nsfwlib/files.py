"""How is a file named in a table, how does it get its name on disk whole, and how is a user's table read?"""

import contextlib
import errno
import hashlib
import os
import platform
import re
import shutil
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

_ODD = re.compile(r"[\\\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_CLOSED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
_FORMULA = re.compile("\\A('?)('*[=+\\-@\\t\\r\\n\uff0b\uff0d\uff1d\uff20])")  # the last: of East Asian keyboards
_ESCAPE = re.compile(r"\\(\\|x[0-9a-f]{2}|u[0-9a-f]{4})")


def file_path(data_dir: Path, path: str) -> Path:
    r"""The file behind a `path` of the images table; everything that opens a file goes through here.

    Tables hold paths as one printable line of valid Unicode: a backslash, a control or text-direction character is
    written `\\` or `\u000a`, a byte that is not UTF-8 `\xff`.
    """
    return Path(data_dir) / _ESCAPE.sub(_unescape, path)


def table_path(relative: str) -> str:
    """The inverse of `file_path`: a path relative to `data_dir`, as the operating system names it → table form."""
    return _ODD.sub(_escape, relative if os.sep == "/" else relative.replace(os.sep, "/"))


@contextlib.contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """Where to write what takes the place of `path` at the end of the block, whole; after an error nothing has changed.

    The name is that of `path`, in a hidden folder of its own beside it: writers of one file do not meet, the last one
    wins, and what a killed one left is cleared away by the next. An OSError names the file and what to do.
    """
    path = Path(path)
    mark = f".{zlib.crc32(os.fsencode(f'{platform.node()}/{path.name}')):08x}-"  # short, whatever the name
    try:
        for left in path.parent.glob(f"{mark}*"):
            import psutil  # rarely needed

            if not psutil.pid_exists(int(left.name.split("-")[1])):
                shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{mark}{os.getpid()}-") as folder:
            draft = Path(folder) / path.name
            yield draft
            draft.replace(path)
    except OSError as error:
        if error.errno not in _CLOSED:
            raise
        told = type(error)(
            f"{path} could not be written ({os.strerror(error.errno)}) and is as it was. Free space on that disk, or "
            "make the folder writable, then try again."
        )
        told.errno = error.errno
        raise told from error


def saving(found: Generator[Any, None, None], save: Callable[[], None], *, every: float) -> Generator[Any, None, None]:
    """What is found, passed on; `save` is called every so many seconds, and when this ends or is closed."""
    saved = time.monotonic()
    try:
        for some in found:
            yield some
            if time.monotonic() - saved > every:
                save()
                saved = time.monotonic()
    finally:
        found.close()
        save()


def writable_folder(folder: Path, name: str) -> Path:
    """`folder`, made if need be; a PermissionError that calls it `name` if nothing can be written there."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"probe")
    except OSError as error:
        raise PermissionError(
            f"{name} must be a folder that can be written. Received: {folder.absolute()} ({error.strerror}). Choose "
            f"another {name}, free some room, or change its permissions."
        ) from error
    return folder


def with_way_out(error: Exception, places: str) -> str:
    """What an error says; where it is the operating system's own word, with what to do about the disks of `places`."""
    if isinstance(error, OSError) and error.strerror and error.errno in _CLOSED:
        return f"{error}. Free space on the disks of {places}, or make them writable, then try again."
    return str(error)


def read_text_table(path: Path) -> pd.DataFrame:
    """A CSV as people and spreadsheets write it, every cell as text: `000123`, `1e5` and `NA` are names of files, too.

    Commas, semicolons or tabs, whichever the header has most of; a byte order mark is no part of the first name, an
    apostrophe of `spreadsheet_safe` no part of a cell. A ValueError: empty, not UTF-8, a row longer than the header.
    """
    try:
        dropped = warnings.catch_warnings(action="error", category=pd.errors.ParserWarning)  # cells would be
        with Path(path).open(encoding="utf-8-sig", newline="") as file, dropped:
            separator = max(",;\t", key=file.readline().count)
            file.seek(0)
            return as_before(pd.read_csv(file, sep=separator, dtype=str, keep_default_na=False, index_col=False))
    except (pd.errors.EmptyDataError, pd.errors.ParserError, pd.errors.ParserWarning, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} cannot be read as a table ({str(error).strip()}). Expected UTF-8, a header, and as many cells a "
            "row; a cell that holds the separator stands in double quotes."
        ) from error


def spreadsheet_safe(table: pd.DataFrame) -> pd.DataFrame:
    """For a CSV: an apostrophe before text, names of columns too, that spreadsheets would run as a formula."""
    return _with_texts(table, r"'\1\2")


def as_before(table: pd.DataFrame) -> pd.DataFrame:
    """The inverse of `spreadsheet_safe`."""
    return _with_texts(table, r"\2")


def _with_texts(table: pd.DataFrame, form: str) -> pd.DataFrame:
    def cell(value: object) -> object:
        return _FORMULA.sub(form, value) if isinstance(value, str) else value

    table = table.rename(columns=cell)
    for name in table.select_dtypes(["object", "string", "category"]):
        table[name] = table[name].map(cell)
    return table


def file_hash(path: Path) -> str:
    """sha256 of the content of `path`, 64 hex digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _escape(match: re.Match) -> str:
    code = ord(match[0])
    if match[0] == "\\":
        return "\\\\"
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def _unescape(match: re.Match) -> str:
    character = match[0].encode().decode("unicode_escape")
    return chr(ord(character) + 0xDC00) if match[1][0] == "x" else character
