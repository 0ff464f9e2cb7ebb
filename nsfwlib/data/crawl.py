"""How is every file of a big tree inspected, once, whatever happens? The workers, and the cache, one SQLite file."""

import contextlib
import hashlib
import os
import sqlite3
import time
import warnings
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

# multiprocessing's workers would import the caller's script again, endlessly if it is unguarded.
from joblib.externals.loky import ProcessPoolExecutor

from nsfwlib.data.inspection import COLUMNS, begin_inspecting, inspect, inspect_all
from nsfwlib.files import saving

_BATCH = 16  # files a worker gets at a time
SECONDS = 60.0  # that a batch may take, and then each of its files
_START = 300.0  # seconds that a worker may take to start on a busy machine
_PASSING = {"missing", "link loop", "unreadable", "crashed the decoder", "took too long"}  # may be better next time
_VERSION = 2  # of what is recorded; a new one makes every cached row stale
_SIGNED = {"phash", "phash_mirror"}  # SQLite's integers are signed
_PATIENCE = 60.0  # seconds that one scan waits for another to let go of the cache


def inspect_files(
    paths: Sequence[str], options: dict, *, cache_dir: Path | None = None, workers: int | None = None
) -> Iterator[tuple[int, dict]]:
    """Inspect files in parallel → (position in `paths`, row of `data.inspect`), as they are done.

    A file whose size and times are those in the cache is not opened. Finished rows are on disk within a second or two,
    so a killed scan goes on where it stopped. A file that ends its worker, or holds it for long, gets a row saying so.

    Args:
        options: keyword arguments of `data.inspect`.
        workers: processes; all cores if None; 0 works in this process, without protection against crashes.
    """
    states = np.full((len(paths), 3), -1)
    misses: list[int] = []
    with open_cache(cache_dir) as cache:
        parts = {key: getattr(value, "fingerprint", value) for key, value in options.items()}
        stamp = hashlib.sha1(repr((_VERSION, sorted(parts.items()))).encode()).hexdigest()
        for start in range(0, len(paths), 512):
            chunk = paths[start : start + 512]
            known = _look_up(cache, stamp, chunk)
            for i, path in enumerate(chunk, start):
                with contextlib.suppress(OSError):
                    status = os.stat(path)  # noqa: PTH116 - its ctime is set when another file takes its place
                    states[i] = status.st_size, status.st_mtime_ns, status.st_ctime_ns
                if row := known.get((path, *states[i])):
                    yield i, row
                else:
                    misses.append(i)
        with contextlib.closing(saving(_run(paths, misses, options, workers), cache.commit, every=1)) as rows:
            for i, row in rows:
                if cache_dir is not None and row["problem"] not in _PASSING:
                    _store(cache, [_key(paths[i]), stamp, *states[i].tolist()], row)
                yield i, row


def _run(paths: Sequence[str], todo: list[int], options: dict, workers: int | None) -> Generator[Any, None, None]:
    if workers == 0:
        yield from ((i, inspect(paths[i], **options)) for i in todo)
        return
    waiting = [todo[start : start + _BATCH] for start in reversed(range(0, len(todo), _BATCH))]
    idle, busy = [], {}  # workers; future → worker, positions, deadline
    # a process of its own: its end costs no other's files
    started = partial(ProcessPoolExecutor, 1, initializer=begin_inspecting, initargs=(options,))

    def hand(worker: ProcessPoolExecutor, batch: list[int], seconds: float) -> None:
        busy[worker.submit(inspect_all, [paths[i] for i in batch])] = worker, batch, time.monotonic() + seconds

    try:
        for _ in range(min(workers or os.cpu_count() or 1, len(waiting))):
            hand(started(), [], _START)  # nothing to do makes it start
        while busy:
            done, _ = wait(busy, timeout=1, return_when=FIRST_COMPLETED)
            late = [future for future, (*_, deadline) in busy.items() if time.monotonic() > deadline]
            for future in {*done, *late}:
                worker, batch, _ = busy.pop(future)
                if future.done() and not future.exception():
                    idle.append(worker)
                    yield from zip(batch, future.result(), strict=True)
                    continue
                worker.shutdown(kill_workers=True)
                if not batch:
                    raise RuntimeError("A worker of the scan could not start. workers=0 scans in this process.")
                hand(started(), [], _START)
                if len(batch) > 1:  # they are tried one by one
                    waiting += [[i] for i in batch]
                else:
                    reason = "crashed the decoder" if future in done else "took too long"
                    yield batch[0], {**COLUMNS, "problem": reason, "thumb": b""}
            while idle and waiting:
                hand(idle.pop(), waiting.pop(), SECONDS)
    finally:
        for worker in [*idle, *(worker for worker, *_ in busy.values())]:
            worker.shutdown(kill_workers=True)


@contextlib.contextmanager
def open_cache(cache_dir: Path | None) -> Iterator[sqlite3.Connection]:
    """The scan's cache, made on first use; in memory if `cache_dir` is None; a damaged one is put aside.

    A TimeoutError where another scan holds it, an OSError where it cannot be written, inside the block, too.
    """
    file = Path(":memory:") if cache_dir is None else Path(cache_dir) / "scan.sqlite"
    try:
        with contextlib.closing(_opened(file)) as cache:
            yield cache
    except sqlite3.OperationalError as error:
        way_out = "What it holds stays. Then scan again, or give another cache_dir."
        if "locked" in str(error):
            said = f"Another scan has held the cache {file} for over {_PATIENCE:.0f} seconds. Wait for its end."
            raise TimeoutError(f"{said} {way_out}") from None
        said = f"The scan's cache {file} cannot be written: {error}. Free space, or give the right to write there."
        raise OSError(f"{said} {way_out}") from None


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


def _look_up(cache: sqlite3.Connection, stamp: str, paths: list[str]) -> dict[tuple, dict]:
    """What is kept of these paths: (path, size, times) → row."""
    of = {_key(path): path for path in paths}
    query = f"SELECT * FROM files WHERE stamp = ? AND path IN ({','.join('?' * len(of))})"
    found = {}
    for key, _, size, mtime, ctime, *values in cache.execute(query, [stamp, *of]):
        kept = zip(COLUMNS.items(), values, strict=True)  # SQLite keeps NaN as None
        row = {name: default if value is None else value for (name, default), value in kept}
        row |= {name: row[name] & 0xFFFF_FFFF_FFFF_FFFF for name in _SIGNED}
        found[of[key], size, mtime, ctime] = row
    return found


def _store(cache: sqlite3.Connection, key: list, row: dict) -> None:
    """Keep one row, and its thumbnail by content."""
    record = key + [row[name] - (row[name] >> 63 << 64) if name in _SIGNED else row[name] for name in COLUMNS]
    cache.execute(f"INSERT OR REPLACE INTO files VALUES ({','.join('?' * len(record))})", record)
    if row["thumb"]:
        cache.execute("INSERT OR IGNORE INTO thumbs VALUES (?, ?)", [row["sha256"], row["thumb"]])


def read_thumbs(cache_dir: Path, contents: Sequence[str]) -> dict[str, bytes]:
    """The grey thumbnails in the cache, by sha256; what is not there is left out."""
    with open_cache(cache_dir) as cache:
        marks = ",".join("?" * len(contents))
        return dict(cache.execute(f"SELECT sha256, thumb FROM thumbs WHERE sha256 IN ({marks})", [*map(str, contents)]))


def purge_thumbnails(cache_dir: Path) -> int:
    """Remove the small grey pictures from the scan's cache, overwritten on disk → how many there were.

    Measures stay, so the next scan is as quick; `group_duplicates` decodes what it compares from `data_dir`. A damaged
    cache that was put aside is deleted.
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
