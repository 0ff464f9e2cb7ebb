"""How do pictures flow through a model? Decoded ahead in threads, forward in batches, answers as they are ready."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import os
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import TimeoutError as NotInTime
from multiprocessing.pool import AsyncResult, ThreadPool
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from nsfwlib import data
from nsfwlib.files import file_path, table_path

SECONDS = 60.0  # for reading and decoding one file, as in the scan; ten times that on other file systems
Forward = Callable[[np.ndarray], list[np.ndarray]]


def mean_and_highest(outputs: list[np.ndarray]) -> list[np.ndarray]:
    """Probabilities (F, K) of one file's frames → their mean and their highest a class, float32 (K,) each."""
    return [outputs[0].mean(axis=0), outputs[0].max(axis=0)]


def first_frame(outputs: list[np.ndarray]) -> list[np.ndarray]:
    """Features (F, D) of one file's frames, block by block → those of the first as float16 (D,)."""
    return [output[0].astype(np.float16) for output in outputs]


def stream_answers(
    work: Iterable[tuple[int, str]],
    files: Files,
    forward: Forward,
    *,
    size: int,
    frames: int = 1,
    batch_size: int = 16,
    workers: int | None = None,
    skip: Container[str] = (),
    reduce: Callable[[list[np.ndarray]], list[np.ndarray]] = mean_and_highest,
) -> Iterator[list[Answer]]:
    """One answer a file, in lists of about a batch; memory holds three batches and what the threads decode.

    Args:
        work: (position, path) of each file, which lie in `files`.
        forward: uint8 (B, S, S, 3) → arrays (B, …), with S = `size`; a FloatingPointError where they are not finite.
        frames: at most so many frames of an animation.
        batch_size: pictures a forward pass, a few more where an animation does not fit.
        workers: threads that decode; by default the cores, at most eight.
        skip: sha256 of contents that need no answer.
        reduce: what becomes of the outputs of one file's frames.
    """
    options = {"size": size, "frames": frames, "batch_size": batch_size, "workers": workers, "skip": skip}
    with contextlib.closing(_loaded_ahead(work, files, **options)) as batches:
        for batch in batches:
            shown = [picture.pixels for _, picture in batch if picture.pixels is not None]
            outputs = [np.asarray(output) for output in forward(np.concatenate(shown))] if shown else []
            found, start = [], 0
            for position, picture in batch:
                count = 0 if picture.pixels is None else len(picture.pixels)
                values = reduce([output[start : start + count] for output in outputs]) if count else None
                if values is not None and not all(np.isfinite(value).all() for value in values):
                    raise FloatingPointError(f"The model's answer is not a number for the picture {picture.sha256}.")
                found.append(Answer(position, picture.sha256, count, values, picture.problem, picture.detail))
                start += count
            yield found


def decoded_batches(
    paths: Sequence[Path], *, size: int, batch_size: int = 32
) -> Iterator[tuple[np.ndarray, np.ndarray, list[str]]]:
    """Positions and pixels, uint8 (b, size, size, 3), of those that could be read, and problems, batch by batch."""
    work = ((i, table_path(os.fspath(path))) for i, path in enumerate(paths))
    files = Files(max_pixels=data.MOST_PIXELS)  # the scan has let them in
    for batch in _loaded_ahead(work, files, size=size, frames=1, batch_size=batch_size):
        good = [(i, picture.pixels) for i, picture in batch if picture.pixels is not None]
        pixels = np.concatenate([p for _, p in good]) if good else np.empty((0, size, size, 3), np.uint8)
        problems = [f"{paths[i]}: {data.ImageProblem(p.problem, p.detail)}" for i, p in batch if p.pixels is None]
        yield np.array([i for i, _ in good], int), pixels, problems


def _loaded_ahead(
    work: Iterable[tuple[int, str]], files: Files, *, batch_size: int, workers: int | None = None, **options: Any
) -> Iterator[list[tuple[int, Picture]]]:
    """Positions and pictures in batches, in the order of the work; options as in `load_picture`."""
    load, work = partial(load_picture, files, **options), iter(work)
    limit = SECONDS if files.filesystem is None else 10 * SECONDS
    # of multiprocessing: its threads end with the process, even one that is held
    start = partial(ThreadPool, workers or min(8, os.cpu_count() or 1))
    pool, queue = start(), deque[tuple[int, str, AsyncResult[Picture]]]()
    batch: list[tuple[int, Picture]] = []
    count = 0
    try:
        while True:
            for position, path in itertools.islice(work, 3 * batch_size - len(queue)):
                queue.append((position, path, pool.apply_async(load, [path])))
            if not queue:
                break
            position, path, loading = queue.popleft()
            try:
                picture = loading.get(limit)  # all before it are done: it has a thread
            except NotInTime:  # a thread cannot be ended: it is left behind, others take what is not done
                picture = Picture(hashed(files, path), None, "took too long", f"more than {limit:g} seconds")
                pool.terminate()
                pool = start()
                queue = deque((i, p, o if o.ready() else pool.apply_async(load, [p])) for i, p, o in queue)
            batch.append((position, picture))
            count += 0 if picture.pixels is None else len(picture.pixels)
            if count >= batch_size or len(batch) >= 8 * batch_size:
                yield batch
                batch, count = [], 0
        if batch:
            yield batch
    finally:
        pool.terminate()


@dataclass(frozen=True)
class Files:
    """Where the files lie, and how large they may be: small enough to be sent to another machine."""

    root: str = ""  # a folder, or "" where paths stand on their own
    filesystem: Any = None  # an fsspec file system, None for this machine's own
    max_pixels: int = data.MAX_PIXELS  # larger ones are not decoded, as in `data.load_image`
    key_frames: bool = False  # of videos alone, as in `data.load_video`

    def open(self, path: str) -> BinaryIO:
        """The file at `path`, written as in the images table."""
        if self.filesystem is None:
            return file_path(Path(self.root), path).open("rb")
        return self.filesystem.open(f"{self.root}/{file_path(Path(), path).as_posix()}" if self.root else path, "rb")

    def read(self, path: str) -> bytes:
        """All bytes of the file at `path`; an ImageProblem as in `data.read_bytes`."""
        if self.filesystem is None:
            return data.read_bytes(file_path(Path(self.root), path))
        try:
            with self.open(path) as stream:
                content = stream.read(data.MAX_BYTES + 1)
        except FileNotFoundError:
            raise data.ImageProblem("missing") from None
        except Exception as error:  # every store has its own kinds
            raise data.ImageProblem("unreadable", f"{type(error).__name__}: {error}") from None
        if len(content) > data.MAX_BYTES:
            raise data.ImageProblem("too many bytes", f"more than {data.MAX_BYTES:,}")
        return data.read_bytes(content)

    def open_video(self, path: str) -> BinaryIO | None:
        """The file at `path`, open, where its name and its content are those of a video: it is not read whole."""
        with contextlib.suppress(Exception):  # every store has its own kinds; reading it then says what is wrong
            if path.lower().endswith(data.VIDEO_NAMES) and (
                self.filesystem is not None or file_path(Path(self.root), path).is_file()  # a FIFO would be waited for
            ):
                stream = self.open(path)
                if data.is_video(stream.read(16)):
                    stream.seek(0)
                    return stream
                stream.close()
        return None


class Answer(NamedTuple):
    """What the model says of one file. `values` is None where there is a problem, or nothing had to be computed."""

    position: int
    sha256: str
    frames: int
    values: list[np.ndarray] | None
    problem: str
    detail: str


class Picture(NamedTuple):
    """What there is to know of one file before a model sees it."""

    sha256: str = ""
    pixels: np.ndarray | None = None  # uint8 (frames, S, S, 3)
    problem: str = ""
    detail: str = ""


def load_picture(files: Files, path: str, *, size: int, frames: int, skip: Container[str] = ()) -> Picture:
    """Read, hash and decode one file to (·, size, size, 3); never raises for what is wrong with it.

    Of an animation at most `frames` are sampled evenly. What is in `skip` is hashed, but not decoded.
    """
    sha256 = ""
    try:
        video = files.open_video(path)
        content = b"" if video else files.read(path)
        with video or io.BytesIO(content) as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            if sha256 in skip:
                return Picture(sha256)
            limits = {"size": size, "frames": frames, "max_pixels": files.max_pixels}
            if video:
                video.seek(0)
                pixels, _, detail = data.load_video(video, key_frames=files.key_frames, **limits)
            else:
                pixels, detail = data.load_frames(content, **limits)
        return Picture(sha256, pixels, "", detail)
    except data.ImageProblem as problem:
        return Picture(sha256, None, problem.reason, problem.detail)


def hashed(files: Files, path: str) -> str:
    """sha256 of one file, "" where it cannot be read; nothing is decoded."""
    try:
        return hashlib.sha256(files.read(path)).hexdigest()
    except data.ImageProblem:
        return ""
