"""Where do cached features live? In two files that only grow: float16 rows, and the content hash of each row.

The rows are on disk before their hashes, so that a hash in the index vouches for its row: after a kill at any moment
the files are cut back to the last whole row that has both.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock

_KEY = 32  # bytes of a sha256


def append(folder: Path, keys: Sequence[str], rows: np.ndarray) -> None:
    """Add `rows` (n, D), stored as float16, under `keys`, n hex sha256; on disk when this returns.

    Raises:
        OSError: the disk is full or read-only. What was stored before stays valid.
    """
    folder.mkdir(parents=True, exist_ok=True)
    width = rows.shape[1] * 2
    with FileLock(folder / "lock"), (folder / "keys.bin").open("ab") as index, (folder / "rows.f16").open("ab") as data:
        count = min(index.tell() // _KEY, data.tell() // width)
        index.truncate(count * _KEY)
        data.truncate(count * width)
        for file, content in ((data, rows.astype(np.float16).tobytes()), (index, bytes.fromhex("".join(keys)))):
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


def positions(folder: Path, keys: Sequence[str], width: int) -> np.ndarray:
    """Row number of each of `keys` (n hex sha256), -1 where there is none."""
    if not (folder / "keys.bin").exists():
        return np.full(len(keys), -1)
    stored = (folder / "keys.bin").read_bytes()
    count = min(len(stored) // _KEY, (folder / "rows.f16").stat().st_size // (width * 2))
    where = {stored[i * _KEY : (i + 1) * _KEY]: i for i in range(count)}
    return np.array([where.get(bytes.fromhex(key), -1) for key in keys], dtype=np.int64)


def read(folder: Path, rows: np.ndarray, width: int) -> np.ndarray:
    """float16 (n, width): the rows of these numbers, NaN where the number is -1.

    Rows that lie on disk in the order asked for come as a read-only memory map, without a copy.
    """
    path = folder / "rows.f16"
    if not len(rows) or (rows < 0).all():
        return np.full((len(rows), width), np.nan, np.float16)
    stored = np.memmap(path, np.float16, "r", shape=(path.stat().st_size // (width * 2), width))
    if rows[0] >= 0 and np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))):
        return stored[rows[0] : rows[0] + len(rows)]
    found = np.full((len(rows), width), np.nan, np.float16)
    order = np.argsort(rows)[(rows < 0).sum() :]  # in the order of the disk
    found[order] = stored[rows[order]]
    return found
