"""How is every file of a big tree inspected, once, whatever happens? The walk, the workers, the cache."""

import collections
import contextlib
import dataclasses
import itertools
import os
import pickle
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from nsfwlib.data.inspection import COLUMNS, inspect, serve_inspections
from nsfwlib.data.scan_cache import look_up, open_cache, stamp_of, state_of, store_row

LITTER = {"thumbs.db", "desktop.ini", "icon\r", "__macosx"}
_BATCH = 16  # files a worker gets at a time
_PASSING = {"missing", "unreadable", "crashed the decoder", "took too long"}  # may be better next time


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
        if folder:
            identity = _identity(data_dir / folder)
            if identity in seen:
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
            yield from _visit(entry, folder, hidden, pending, links)


def _visit(
    entry: os.DirEntry, folder: str, hidden: bool, pending: collections.deque, links: collections.deque
) -> Iterator[tuple[str, str, str]]:
    path = os.path.join(folder, entry.name)  # noqa: PTH118 - a million Path objects cost memory
    if entry.is_dir(follow_symlinks=False):
        pending.append(path)
    elif hidden or is_skipped(entry.name):
        yield path, "skipped: hidden or litter", ""
    elif entry.is_symlink():
        try:
            if entry.is_dir():
                links.append(path)
            else:
                entry.stat()
                yield path, "", ""
        except FileNotFoundError:
            yield path, "missing", "dangling link"
        except OSError as error:
            yield path, "link loop", error.strerror or ""
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
    with contextlib.closing(open_cache(cache_dir)) as cache:
        stamp = stamp_of(options)
        for start in range(0, len(paths), 512):
            chunk = range(start, min(start + 512, len(paths)))
            known = look_up(cache, stamp, [paths[i] for i in chunk])
            for i in chunk:
                keys[i] = state_of(paths[i])
                size_and_times, row = known.get(os.fsencode(paths[i]), (None, None))
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


# All that a worker runs: one of multiprocessing's would import the caller's script again, endlessly if unguarded.
_WORKER = """
import os, pickle, sys
requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)  # what a decoder prints is no answer
sys.path[:] = pickle.load(requests)
serve, options = pickle.load(requests)
serve(requests, answers, options)
"""


@dataclasses.dataclass(eq=False)
class _Worker:
    process: subprocess.Popen
    deadline: float
    batch: list[tuple[int, str]] = dataclasses.field(default_factory=list)
    ready: bool = False

    @property
    def busy(self) -> bool:
        return bool(self.batch) or not self.ready


def _run(
    work: Iterable[tuple[int, str]], total: int, options: dict, *, workers: int | None, timeout: float
) -> Iterator[tuple[int, dict]]:
    if workers == 0:
        for i, path in work:
            yield i, inspect(path, **options)
        return
    work = iter(work)
    again: list[tuple[int, str]] = []  # files of a lost worker, to be tried one by one
    answers: queue.SimpleQueue = queue.SimpleQueue()
    crew = [_start(options, answers) for _ in range(min(workers or os.cpu_count() or 1, -(-total // _BATCH)))]
    try:
        while True:
            for worker in crew:
                if not worker.busy:
                    _hand(worker, [again.pop()] if again else list(itertools.islice(work, _BATCH)), timeout)
            if not any(worker.busy for worker in crew):
                return
            lost = {}
            with contextlib.suppress(queue.Empty):
                worker, rows = answers.get(timeout=1)
                if worker in crew and rows is None:
                    lost[worker] = "crashed the decoder"
                elif worker in crew:  # and not one that was given up before it answered
                    batch, worker.batch, worker.ready = worker.batch, [], True
                    yield from zip((i for i, _ in batch), rows, strict=True)
            if answers.empty():
                late = [worker for worker in crew if worker.busy and time.monotonic() > worker.deadline]
                lost = dict.fromkeys(late, "took too long") | lost
            for worker, reason in lost.items():
                yield from _bury(worker, reason, again)
                crew[crew.index(worker)] = _start(options, answers)
    finally:
        for worker in crew:
            _stop(worker)


def _start(options: dict, answers: queue.SimpleQueue) -> _Worker:
    process = subprocess.Popen([sys.executable, "-c", _WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    worker = _Worker(process, time.monotonic() + 300)
    _send(worker, sys.path)
    _send(worker, (serve_inspections, options))
    threading.Thread(target=_listen, args=(worker, answers), daemon=True).start()
    return worker


def _send(worker: _Worker, message: object) -> None:
    with contextlib.suppress(OSError):  # it ended, which `_listen` tells
        pickle.dump(message, worker.process.stdin)
        worker.process.stdin.flush()


def _listen(worker: _Worker, answers: queue.SimpleQueue) -> None:
    """Put what a worker answers into the queue, and None once it has ended."""
    with contextlib.suppress(EOFError, pickle.UnpicklingError), worker.process.stdout as said:
        while True:
            answers.put((worker, pickle.load(said)))
    answers.put((worker, None))


def _hand(worker: _Worker, batch: list[tuple[int, str]], timeout: float) -> None:
    worker.batch, worker.deadline = batch, time.monotonic() + timeout
    if batch:
        _send(worker, [path for _, path in batch])


def _bury(worker: _Worker, reason: str, again: list[tuple[int, str]]) -> Iterator[tuple[int, dict]]:
    _stop(worker)
    if not worker.ready:
        raise RuntimeError(
            f"A worker of the scan could not start (exit code {worker.process.returncode}). "
            "workers=0 scans in this process."
        )
    if len(worker.batch) > 1:
        again += worker.batch
    else:
        for i, _ in worker.batch:
            yield i, {**COLUMNS, "problem": reason, "thumb": b""}


def _stop(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.wait()
    with contextlib.suppress(OSError):
        worker.process.stdin.close()
