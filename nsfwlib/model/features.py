"""What does the frozen backbone see in each picture? One pass, kept on disk by content, shared by all runs."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock
from PIL import Image
from tqdm.auto import tqdm

from nsfwlib._tensorflow import keras
from nsfwlib.data import ImageProblem, load_image, read_bytes
from nsfwlib.files import file_path
from nsfwlib.model.classifier import block_output, image_size
from nsfwlib.model.cluster import cluster_answers
from nsfwlib.model.forward import forward_pass, model_identity
from nsfwlib.model.runtime import Forward
from nsfwlib.model.stream import Files

STORE_SECONDS = 10  # what a kill may cost
CROP = 0.875  # side of the corner crops, as a share of the picture's
VIEWS = ("plain", "flip", "top-left", "top-right", "bottom-left", "bottom-right")


# ------------------------------------------------------------------------------------------------ pictures
def decoded_batches(
    paths: Sequence[Path], *, size: int, batch_size: int = 32, workers: int = 4, keys: Sequence[str] | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray, list[str]]]:
    """Decode ahead of the consumer, batch by batch: (positions, uint8 (b, size, size, 3), problems).

    Positions are of the pictures that could be read; `problems` names the others. Memory holds a few batches. With
    `keys` (sha256 of what each file should hold) a file that has changed since is a problem.
    """

    def load(position: int) -> np.ndarray | str:
        try:
            data = read_bytes(paths[position])
            if keys is not None and hashlib.sha256(data).hexdigest() != keys[position]:
                return f"{paths[position]}: changed since the scan; scan again"
            return load_image(data, size=size)
        except ImageProblem as problem:
            return f"{paths[position]}: {problem}"

    with ThreadPoolExecutor(workers) as pool:
        queue: deque[list[tuple[int, Future]]] = deque()
        starts = iter(range(0, len(paths), batch_size))
        try:
            while True:
                while len(queue) < 3 and (start := next(starts, None)) is not None:
                    batch = range(start, min(start + batch_size, len(paths)))
                    queue.append([(i, pool.submit(load, i)) for i in batch])
                if not queue:
                    return
                done = [(i, future.result()) for i, future in queue.popleft()]
                good = [(i, pixels) for i, pixels in done if not isinstance(pixels, str)]
                pixels = np.stack([p for _, p in good]) if good else np.empty((0, size, size, 3), np.uint8)
                yield np.array([i for i, _ in good], int), pixels, [p for _, p in done if isinstance(p, str)]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def view_of(pixels: np.ndarray, view: str) -> np.ndarray:
    """An augmented view of pictures (B, S, S, 3): as they are, mirrored, or a corner of CROP of the side, resized."""
    if view == "plain":
        return pixels
    if view == "flip":
        return pixels[:, :, ::-1]
    side = pixels.shape[1]
    part = round(CROP * side)
    top, left = (0 if view.startswith("top") else side - part), (0 if view.endswith("left") else side - part)
    corner = pixels[:, top : top + part, left : left + part]
    resized = [Image.fromarray(picture).resize((side, side), Image.Resampling.BILINEAR) for picture in corner]
    return np.stack(resized) if resized else pixels


# ------------------------------------------------------------------------------------------------ features
def bottleneck_features(
    model: keras.Model,
    table: pd.DataFrame,
    data_dir: Path,
    *,
    cache_dir: Path,
    blocks: str | Sequence[str] = "mixed10",
    views: Sequence[str] = ("plain",),
    batch_size: int = 32,
    where: str = "local",
    cluster: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> np.ndarray:
    """Pooled backbone outputs of every row of the images table: float16 (N, ΣD), the blocks side by side.

    Args:
        model: a classifier; the backbone and its rescaling are used, the head is not.
        table: rows of the images table (`path`, `sha256`); rows with a problem are never opened and come out as NaN, as
            do those whose file has changed or broken since the scan.
        data_dir: the folder that `path` is relative to.
        cache_dir: shared by runs. Rows are kept by content hash and by identity of the weights, so that renamed,
            relabelled and copied files cost nothing. Interrupt or kill it: the next call goes on where it stopped.
        blocks: layer names, e.g. "mixed4" (768 wide) or ("mixed4", "mixed10"); see `model.feature_model`.
        views: of `VIEWS`. Several make (V·N, ΣD): all rows in the first view, then all in the second …
        batch_size: pictures a forward pass; on a GPU a few hundred are faster.
        where: "local", or "ray" for the machines of a cluster.
        cluster: options of `model.compute_features`: address, actors, cpus, gpus.
        progress: show a progress bar where there is something to compute.

    Raises:
        ValueError: the backbone has no such block, there is no such view, or Ray is asked for another than "plain".
        OSError: the disk is full; what was computed before is kept.
    """
    options = {"views": views, "batch_size": batch_size, "where": where, "cluster": cluster, "progress": progress}
    parts = block_features(model, table, data_dir, cache_dir=cache_dir, blocks=blocks, **options)
    arrays = list(parts.values())
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=1)


def block_features(
    model: keras.Model,
    table: pd.DataFrame,
    data_dir: Path,
    *,
    cache_dir: Path,
    blocks: str | Sequence[str],
    views: Sequence[str] = ("plain",),
    batch_size: int = 32,
    where: str = "local",
    cluster: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> dict[str, np.ndarray]:
    """`bottleneck_features`, block by block: name → float16 (V·N, D). Several blocks or views cost one decoding."""
    blocks = [blocks] if isinstance(blocks, str) else list(blocks)
    if not views or not set(views) <= set(VIEWS):
        raise ValueError(f"views must be some of {', '.join(VIEWS)}. Received: {list(views)}.")
    if where == "ray" and tuple(views) != ("plain",):
        raise ValueError(f"where='ray' computes the view plain alone. Received: {list(views)}.")
    folders = _folders(model, cache_dir, blocks)
    missing = missing_rows(model, table, cache_dir=cache_dir, blocks=blocks, views=views)
    if len(missing) and where == "ray":
        options = {"batch_size": batch_size, "progress": progress, **(cluster or {})}
        compute_features(model, missing, data_dir, cache_dir=cache_dir, blocks=blocks, **options)
    elif len(missing):
        forward = forward_pass(model, blocks, cache_dir=cache_dir)
        size = image_size(model)
        _compute(forward, missing, Path(data_dir), folders, views, size, batch_size, progress)
    found = {}
    for block, (folder, width) in zip(blocks, folders, strict=True):
        parts = []
        for view in views:
            rows = row_positions(folder, _keys(table["sha256"], view), width)
            parts.append(read_rows(folder, rows, width))
        found[block] = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return found


def missing_rows(
    model: keras.Model,
    table: pd.DataFrame,
    *,
    cache_dir: Path,
    blocks: str | Sequence[str],
    views: Sequence[str] = ("plain",),
) -> pd.DataFrame:
    """The rows of the images table, one a content, whose features are yet to be computed."""
    usable = table[table["problem"].eq("")] if "problem" in table else table
    unique = usable.drop_duplicates("sha256")
    missing = np.zeros(len(unique), bool)
    for folder, width in _folders(model, cache_dir, [blocks] if isinstance(blocks, str) else blocks):
        for view in views:
            missing |= row_positions(folder, _keys(unique["sha256"], view), width) < 0
    return unique[missing]


def _folders(model: keras.Model, cache_dir: Path, blocks: Sequence[str]) -> list[tuple[Path, int]]:
    """Folder and width of each block's features."""
    root = Path(cache_dir) / "features"
    widths = [block_output(model, block).shape[-1] for block in blocks]
    return [(root / f"{b}-{model_identity(model, b)}", width) for b, width in zip(blocks, widths, strict=True)]


def _keys(hashes: Sequence[str], view: str) -> list[str]:
    """What a view is stored under: the picture's sha256, or for another view a hash of that and the view's name."""
    if view == "plain":
        return list(hashes)
    return [hashlib.sha256(f"{sha256} {view} {CROP}".encode()).hexdigest() for sha256 in hashes]


def _compute(
    forward: Forward,
    rows: pd.DataFrame,
    data_dir: Path,
    folders: list[tuple[Path, int]],
    views: Sequence[str],
    size: int,
    batch_size: int,
    progress: bool,
) -> None:
    """Forward pass over `rows`, stored as it goes; what is computed when an interrupt comes is stored too."""
    hashes = rows["sha256"].to_numpy()
    keys = {view: np.array(_keys(hashes, view)) for view in views}
    have = {(f, view): row_positions(f[0], keys[view], f[1]) >= 0 for f in folders for view in views}
    pending: list[tuple[str, np.ndarray, list[np.ndarray]]] = []

    def store() -> None:
        for i, (folder, width) in enumerate(folders):
            fresh = [(view, where, ~have[(folder, width), view][where], outputs[i]) for view, where, outputs in pending]
            if any(new.any() for _, _, new, _ in fresh):
                names = np.concatenate([keys[view][where[new]] for view, where, new, _ in fresh])
                rows = np.concatenate([values[new] for _, _, new, values in fresh])
                _append(folder, names, rows)
        pending.clear()

    paths = [file_path(data_dir, path) for path in rows["path"]]
    batches = decoded_batches(paths, size=size, batch_size=batch_size, keys=hashes)
    stored = time.monotonic()
    try:
        with tqdm(total=len(rows), desc="features", unit="img", disable=not progress) as bar:
            for positions, pixels, problems in batches:
                for view in views if len(positions) else ():
                    outputs = [out.astype(np.float16) for out in forward(view_of(pixels, view))]
                    pending.append((view, positions, outputs))
                bar.update(len(positions) + len(problems))
                if time.monotonic() - stored > STORE_SECONDS:
                    store()
                    stored = time.monotonic()
    finally:
        store()


def _append(folder: Path, keys: np.ndarray, rows: np.ndarray) -> None:
    try:
        append_rows(folder, keys, rows)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        message = f"No room for features in {folder}. Free some and run again: what was computed before stays"
        raise OSError(error.errno, message) from error


_KEY = 32  # bytes of a sha256


def append_rows(folder: Path, keys: Sequence[str], rows: np.ndarray) -> None:
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


def row_positions(folder: Path, keys: Sequence[str], width: int) -> np.ndarray:
    """Row number of each of `keys` (n hex sha256), -1 where there is none."""
    if not (folder / "keys.bin").exists():
        return np.full(len(keys), -1)
    stored = (folder / "keys.bin").read_bytes()
    count = min(len(stored) // _KEY, (folder / "rows.f16").stat().st_size // (width * 2))
    where = {stored[i * _KEY : (i + 1) * _KEY]: i for i in range(count)}
    return np.array([where.get(bytes.fromhex(key), -1) for key in keys], dtype=np.int64)


def read_rows(folder: Path, rows: np.ndarray, width: int) -> np.ndarray:
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


def compute_features(
    model: keras.Model,
    table: pd.DataFrame,
    data_dir: Path,
    *,
    cache_dir: Path,
    blocks: str | Sequence[str],
    batch_size: int = 32,
    progress: bool = True,
    **cluster: Any,
) -> list[str]:
    """The bottleneck-feature pass on a cluster: `model.block_features` finds all of it in `cache_dir` afterwards.

    Args:
        model: a classifier.
        table: rows of the images table; what is in the cache already is not computed.
        data_dir: a folder that every machine reaches under this path.
        cache_dir: of this machine, which alone writes there. What has come when a call is interrupted is kept.
        blocks: names of the backbone's blocks.
        batch_size: pictures a forward pass.
        progress: show a bar.
        cluster: runtime, workers, address, actors, cpus, gpus as in `answers`.

    Returns:
        A sentence for each file that is broken or has changed since the scan.
    """

    blocks = [blocks] if isinstance(blocks, str) else list(blocks)
    missing = missing_rows(model, table, cache_dir=cache_dir, blocks=blocks)
    if not len(missing):
        return []
    folders = [folder for folder, _ in _folders(model, cache_dir, blocks)]
    keys, paths, problems = missing["sha256"].to_numpy(), missing["path"].to_numpy(), []
    files = Files(str(data_dir))
    options = {"size": model.input_shape[1], "blocks": blocks, "batch_size": batch_size, **cluster}
    with tqdm(total=len(missing), desc="features", unit="img", disable=not progress) as bar:
        work = enumerate(paths.tolist())
        for found in cluster_answers(work, files=files, model=model, **options):
            good = [a for a in found if a.values is not None and a.sha256 == keys[a.position]]
            for folder, values in zip(folders, zip(*(answer.values for answer in good), strict=True), strict=False):
                append_rows(folder, [answer.sha256 for answer in good], np.stack(values))
            fine = {answer.position for answer in good}
            bad = [answer for answer in found if answer.position not in fine]
            problems += [f"{paths[a.position]}: {a.problem or 'changed since the scan; scan again'}" for a in bad]
            bar.update(len(found))
    return problems
