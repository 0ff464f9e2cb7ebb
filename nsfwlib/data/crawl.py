"""How is every file of a big tree inspected, once, whatever happens? The walk, the workers, the cache."""

import collections
import itertools
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path

import numpy as np

# multiprocessing's workers would import the caller's script again, endlessly if it is unguarded.
from joblib.externals.loky import ProcessPoolExecutor

from nsfwlib.data.inspection import COLUMNS, begin_inspecting, inspect, inspect_all
from nsfwlib.data.scan_cache import look_up, open_cache, stamp_of, state_of, store_row

LITTER = {"thumbs.db", "desktop.ini", "icon\r", "__macosx"}
_BATCH = 16  # files a worker gets at a time
_START = 300.0  # seconds that a worker may take to start on a busy machine
_PASSING = {"missing", "link loop", "unreadable", "crashed the decoder", "took too long"}  # may be better next time


def is_skipped(name: str) -> bool:
    """Hidden, or left behind by an operating system."""
    return name.startswith(".") or name.lower() in LITTER


def walk_files(data_dir: Path) -> Iterator[tuple[str, str, str]]:
    """Every file below `data_dir` → (relative path, problem, detail), in no particular order.

    Links to folders are followed after the real folders, each folder is entered once: what a link leads
    to a second time is a "link loop". Files in hidden folders and litter are "skipped: …". A folder that
    cannot be read has a row of its own, its path ends in the separator.
    """
    seen = {_identity(folder) for folder in (data_dir.resolve(), *data_dir.resolve().parents)}
    pending, links = collections.deque([""]), collections.deque()
    while pending or links:
        folder = pending.popleft() if pending else links.popleft()
        identity = _identity(data_dir / folder)
        if folder and identity in seen:
            yield folder, "link loop", "leads to a folder that is listed already, or contains this one"
            continue
        seen.add(identity)
        try:
            with os.scandir(data_dir / folder) as entries:
                entries = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            yield folder + os.sep, "unreadable", f"folder: {error.strerror}"
            continue
        hidden = any(is_skipped(part) for part in folder.split(os.sep))  # noqa: PTH206
        for entry in entries:
            path = os.path.join(folder, entry.name)  # noqa: PTH118 - a million Path objects cost memory
            if entry.is_dir(follow_symlinks=False):
                pending.append(path)
            elif hidden or is_skipped(entry.name):
                yield path, "skipped: hidden or litter", ""
            elif entry.is_symlink() and (data_dir / path).is_dir():
                links.append(path)
            else:
                yield path, "", ""


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def inspect_files(
    paths: Sequence[str],
    options: dict,
    *,
    cache_dir: Path | None = None,
    workers: int | None = None,
    timeout: float = 60.0,
) -> Iterator[tuple[int, dict]]:
    """Inspect files in parallel → (position in `paths`, row of `data.inspect`), as they are done.

    A file whose size and times are those in the cache is not opened. Finished rows are on disk within a
    second or two, so a killed scan goes on where it stopped. A file that ends its worker, or holds it
    longer than `timeout` seconds, gets a row that says so.

    Args:
        options: keyword arguments of `data.inspect`.
        workers: processes; all cores if None; 0 works in this process, without protection against crashes.
    """
    keys = np.zeros((len(paths), 3), dtype=np.int64)
    misses: list[int] = []
    with open_cache(cache_dir) as cache:
        stamp = stamp_of(options)
        for start in range(0, len(paths), 512):
            chunk = range(start, min(start + 512, len(paths)))
            known = look_up(cache, stamp, [paths[i] for i in chunk])
            for i in chunk:
                keys[i] = state_of(paths[i])
                size_and_times, row = known.get(paths[i], (None, None))
                if size_and_times == tuple(keys[i]):
                    yield i, row
                else:
                    misses.append(i)
        saved = time.monotonic()
        work = ((i, paths[i]) for i in misses)
        try:
            for i, row in _run(work, len(misses), options, workers=workers, timeout=timeout):
                if cache_dir is not None and row["problem"] not in _PASSING:
                    store_row(cache, stamp, paths[i], keys[i], row)
                if time.monotonic() - saved > 1:
                    cache.commit()
                    saved = time.monotonic()
                yield i, row
        finally:  # an interrupted scan keeps what it has, too
            cache.commit()


Batch = list[tuple[int, str]]


def _run(
    work: Iterable[tuple[int, str]], total: int, options: dict, *, workers: int | None, timeout: float
) -> Iterator[tuple[int, dict]]:
    if workers == 0:
        yield from ((i, inspect(path, **options)) for i, path in work)
        return
    work = iter(work)
    again: list[Batch] = []  # files of a lost worker, to be tried one by one
    idle: list[ProcessPoolExecutor] = []
    busy: dict[Future, tuple[ProcessPoolExecutor, Batch, float]] = {}
    try:
        for _ in range(min(workers or os.cpu_count() or 1, -(-total // _BATCH))):
            _hand(_worker(options), [], busy, timeout=_START)
        while busy:
            done, _ = wait(busy, timeout=1, return_when=FIRST_COMPLETED)
            late = [future for future, (*_, deadline) in busy.items() if time.monotonic() > deadline]
            for future in {*done, *late}:
                worker, batch, _ = busy.pop(future)
                if future.done() and not future.exception():
                    idle.append(worker)
                    yield from zip((i for i, _ in batch), future.result(), strict=True)
                    continue
                worker.shutdown(kill_workers=True)
                if not batch:
                    raise RuntimeError("A worker of the scan could not start. workers=0 scans in this process.")
                _hand(_worker(options), [], busy, timeout=_START)
                if len(batch) > 1:
                    again += [[file] for file in batch]
                else:
                    reason = "crashed the decoder" if future in done else "took too long"
                    yield batch[0][0], {**COLUMNS, "problem": reason, "thumb": b""}
            while idle and (batch := again.pop() if again else list(itertools.islice(work, _BATCH))):
                _hand(idle.pop(), batch, busy, timeout=timeout)
    finally:
        for worker in [*idle, *(worker for worker, *_ in busy.values())]:
            worker.shutdown(kill_workers=True)


def _worker(options: dict) -> ProcessPoolExecutor:
    """A process of its own, so that its end costs no other's files."""
    return ProcessPoolExecutor(1, initializer=begin_inspecting, initargs=(options,))


def _hand(worker: ProcessPoolExecutor, batch: Batch, busy: dict, *, timeout: float) -> None:
    """Give a worker its next files; none at all make it start."""
    future = worker.submit(inspect_all, [path for _, path in batch])
    busy[future] = worker, batch, time.monotonic() + timeout
