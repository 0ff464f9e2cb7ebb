"""How is a file named in a table, and how does it get its name on disk whole?"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

_ODD = re.compile(r"[\\\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_ESCAPE = re.compile(r"\\(\\|x[0-9a-f]{2}|u[0-9a-f]{4})")


def file_path(data_dir: Path, path: str) -> Path:
    r"""The file behind a `path` of the images table; everything that opens a file goes through here.

    Tables hold paths as one printable line of valid Unicode: a backslash, a control or text-direction
    character is written `\\` or `\u000a`, a byte that is not UTF-8 `\xff`.
    """
    if "\\" not in path:
        return Path(data_dir) / path
    return Path(data_dir) / _ESCAPE.sub(_unescape, path)


def table_path(relative: str) -> str:
    """The inverse of `file_path`: a path relative to `data_dir`, as the operating system names it → table form."""
    return _ODD.sub(_escape, relative if os.sep == "/" else relative.replace(os.sep, "/"))


@contextlib.contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """Where to write what takes the place of `path` at the end of the block, whole; after an error nothing has changed.

    The name is that of `path`, in a folder of its own beside it: writers of one file do not meet, the last one wins.
    """
    path = Path(path)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        draft = Path(folder) / path.name
        yield draft
        draft.replace(path)


def file_hash(path: Path) -> str:
    """sha256 of the content of `path`, 64 hex digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _escape(match: re.Match) -> str:
    character = match[0]
    code = ord(character)
    if character == "\\":
        return "\\\\"
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def _unescape(match: re.Match) -> str:
    text = match[1]
    if text == "\\":
        return "\\"
    return chr(int(text[1:], 16) + (0xDC00 if text[0] == "x" else 0))
