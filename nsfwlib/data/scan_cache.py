"""What is known of a file that has not changed? The scan's cache, one SQLite file."""

import contextlib
import hashlib
import os
import sqlite3
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from nsfwlib.data.inspection import COLUMNS

_VERSION = 2  # of what is recorded; a new one makes every cached row stale
_PATIENCE = 60.0  # seconds that one scan waits for another to let go of the cache


@contextlib.contextmanager
def open_cache(cache_dir: Path | None) -> Iterator[sqlite3.Connection]:
    """The scan's cache, made on first use; in memory if `cache_dir` is None; a damaged one is put aside.

    Raises, for what fails inside the block, too:
        TimeoutError: another scan holds it.
        OSError: it cannot be written.
    """
    file = Path(":memory:") if cache_dir is None else Path(cache_dir) / "scan.sqlite"
    try:
        with contextlib.closing(_opened(file)) as cache:
            yield cache
    except sqlite3.OperationalError as error:
        way_out = "What it holds stays. Then scan again, or give another cache_dir."
        if "locked" in str(error):
            message = f"Another scan has held the cache {file} for over {_PATIENCE:.0f} seconds. Wait for its end."
            raise TimeoutError(f"{message} {way_out}") from None
        message = f"The scan's cache {file} cannot be written: {error}. Free space, or give the right to write there."
        raise OSError(f"{message} {way_out}") from None


def _opened(file: Path) -> sqlite3.Connection:
    with contextlib.suppress(OSError):  # SQLite says so itself
        file.parent.mkdir(parents=True, exist_ok=True)
    try:
        return _prepared(file)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        warnings.warn(f"The scan's cache was damaged and starts anew: {file} ({error})", stacklevel=2)
    for damaged in (Path(f"{file}{suffix}") for suffix in ("", "-wal", "-shm")):
        if damaged.exists():
            damaged.replace(f"{damaged}.damaged")
    return _prepared(file)


_SIGNED = {"phash", "phash_mirror"}  # SQLite's integers are signed


def _prepared(file: Path) -> sqlite3.Connection:
    cache = sqlite3.connect(file, timeout=_PATIENCE)
    cache.execute("PRAGMA journal_mode=WAL")
    cache.execute("PRAGMA synchronous=NORMAL")
    columns = ", ".join(f'"{name}"' for name in ("path", "stamp", "size", "mtime", "ctime", *COLUMNS))
    cache.execute(f"CREATE TABLE IF NOT EXISTS files ({columns}, PRIMARY KEY (path, stamp)) WITHOUT ROWID")
    cache.execute("CREATE TABLE IF NOT EXISTS thumbs (sha256 TEXT PRIMARY KEY, thumb BLOB)")
    if cache.execute("PRAGMA user_version").fetchone() == (0,):  # of a version that kept the paths themselves
        cache.create_function("digest", 1, _key)
        cache.execute("PRAGMA secure_delete=ON")
        cache.execute("UPDATE OR REPLACE files SET path = digest(path)")
        cache.execute("PRAGMA user_version=1")
        cache.commit()
    return cache


def _key(path: str | bytes) -> bytes:
    """What stands for a path: the cache tells nobody's folders, nor what lies in them."""
    return hashlib.blake2b(os.fsencode(path), digest_size=16).digest()


def stamp_of(options: dict) -> str:
    """What a row was measured with: rows of another stamp do not count."""
    parts = {key: getattr(value, "fingerprint", value) for key, value in options.items()}
    return hashlib.sha1(repr((_VERSION, sorted(parts.items()))).encode()).hexdigest()


def state_of(path: str) -> tuple[int, int, int]:
    """Size and times of a file, (-1, 0, 0) if it has none; ctime tells a file put in another's place."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return -1, 0, 0
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def look_up(cache: sqlite3.Connection, stamp: str, paths: list[str]) -> dict[str, tuple[tuple, dict]]:
    """What is kept of these paths: path → (size and times, row)."""
    of = {_key(path): path for path in paths}
    marks = ",".join("?" * len(paths))
    names = ", ".join(f'"{name}"' for name in COLUMNS)
    query = f"SELECT path, size, mtime, ctime, {names} FROM files WHERE stamp = ? AND path IN ({marks})"
    found = cache.execute(query, [stamp, *of])
    return {of[key]: ((size, mtime, ctime), _unpack(values)) for key, size, mtime, ctime, *values in found}


def _unpack(values: Sequence) -> dict:
    kept = zip(COLUMNS.items(), values, strict=True)
    row = {name: default if value is None else value for (name, default), value in kept}  # None: how SQLite keeps NaN
    return row | {name: row[name] & 0xFFFF_FFFF_FFFF_FFFF for name in _SIGNED}


def store_row(cache: sqlite3.Connection, stamp: str, path: str, state: Sequence[int], row: dict) -> None:
    """Keep one row, and its thumbnail by content."""
    values = [row[name] - (row[name] >> 63 << 64) if name in _SIGNED else row[name] for name in COLUMNS]
    record = [_key(path), stamp, *map(int, state), *values]
    cache.execute(f"INSERT OR REPLACE INTO files VALUES ({','.join('?' * len(record))})", record)
    if row["thumb"]:
        cache.execute("INSERT OR IGNORE INTO thumbs VALUES (?, ?)", [row["sha256"], row["thumb"]])


def read_thumbs(cache_dir: Path, contents: Sequence[str]) -> dict[str, bytes]:
    """The grey thumbnails in the cache, by sha256; what is not there is left out."""
    found: dict[str, bytes] = {}
    with open_cache(cache_dir) as cache:
        for start in range(0, len(contents), 500):
            part = [str(content) for content in contents[start : start + 500]]
            marks = ",".join("?" * len(part))
            found |= cache.execute(f"SELECT sha256, thumb FROM thumbs WHERE sha256 IN ({marks})", part)
    return found


def purge_thumbnails(cache_dir: Path) -> int:
    """Remove the small grey pictures from the scan's cache, overwritten on disk → how many there were.

    Measures stay, so the next scan is as quick; `group_duplicates` decodes what it has to compare from `data_dir`.
    A damaged cache that was put aside is deleted.
    """
    for damaged in Path(cache_dir).glob("scan.sqlite*.damaged"):
        damaged.unlink()
    with open_cache(cache_dir) as cache:
        cache.execute("PRAGMA secure_delete=ON")
        count = cache.execute("DELETE FROM thumbs").rowcount
        cache.commit()
        cache.execute("VACUUM")
        cache.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return count
