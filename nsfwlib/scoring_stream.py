"""How do pictures flow through a model? Decoded ahead in threads, forward in batches, answers as they are ready.

The same stream runs on this machine and inside each worker of a cluster.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import itertools
import os
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from nsfwlib.scoring_files import Answer, Files, Picture, load_picture

Forward = Callable[[np.ndarray], list[np.ndarray]]
Reduce = Callable[[list[np.ndarray]], list[np.ndarray]]


def mean_and_highest(outputs: list[np.ndarray]) -> list[np.ndarray]:
    """Probabilities (F, K) of one file's frames → their mean and their highest a class, float32 (K,) each."""
    return [outputs[0].mean(axis=0), outputs[0].max(axis=0)]


def first_frame(outputs: list[np.ndarray]) -> list[np.ndarray]:
    """Features (F, D) of one file's frames, block by block → those of the first as float16 (D,)."""
    return [output[0].astype(np.float16) for output in outputs]


def answers(
    work: Iterable[tuple[int, str]],
    files: Files,
    forward: Forward,
    *,
    size: int,
    frames: int = 1,
    batch_size: int = 16,
    workers: int | None = None,
    skip: Container[str] = (),
    reduce: Reduce = mean_and_highest,
) -> Iterator[list[Answer]]:
    """One answer a file, in lists of about a batch; memory holds three batches and what the threads decode.

    Args:
        work: (position, path) of each file.
        files: where they lie.
        forward: uint8 (B, S, S, 3) → arrays (B, …).
        size: S.
        frames: at most so many frames of an animation.
        batch_size: pictures a forward pass, a few more where an animation does not fit.
        workers: threads that decode; by default the cores, at most eight.
        skip: sha256 of contents that need no answer.
        reduce: what becomes of the outputs of one file's frames.

    Raises:
        FloatingPointError: the model's answer is not finite.
    """
    workers = workers or min(8, os.cpu_count() or 1)
    work = iter(work)
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        queue: deque = deque()
        batch: list[tuple[int, Picture]] = []
        count = 0
        try:
            while True:
                for position, path in itertools.islice(work, 3 * batch_size - len(queue)):
                    load = pool.submit(load_picture, files, path, size=size, frames=frames, skip=skip)
                    queue.append((position, path, load))
                if not queue:
                    break
                position, path, load = queue.popleft()
                picture = load.result()
                batch.append((position, picture))
                count += 0 if picture.pixels is None else len(picture.pixels)
                if count >= batch_size or len(batch) >= 8 * batch_size:
                    yield _answer(batch, forward, reduce)
                    batch, count = [], 0
            if batch:
                yield _answer(batch, forward, reduce)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def warm(forward: Forward, size: int) -> Forward:
    """`forward` after its first call, with the memory that building its graph took given back.

    glibc would keep it: 570 MB of 2,430 for InceptionV3 with folded weights.
    """
    forward(np.zeros((1, size, size, 3), np.uint8))
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return forward


def _answer(batch: list[tuple[int, Picture]], forward: Forward, reduce: Reduce) -> list[Answer]:
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
    return found
