"""What does the frozen backbone see in each picture? One pass, kept on disk by content, shared by all runs."""

import contextlib
import itertools
import os
import warnings
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock
from tqdm.auto import tqdm

from nsfwlib._tensorflow import keras
from nsfwlib.data import MAX_PIXELS
from nsfwlib.files import saving, writable_folder
from nsfwlib.model.classifier import block_output, head_blocks, head_model, image_size
from nsfwlib.model.cluster import cluster_answers
from nsfwlib.model.forward import forward_pass, model_identity
from nsfwlib.model.runtime import has_bfloat16, openvino_usable
from nsfwlib.model.stream import Answer, Files, first_frame, stream_answers

STORE_SECONDS = 10  # what a kill may cost
_KEY = 32  # bytes of a sha256
_AT_ONCE = 4096  # rows of features that become float32: all at once, Keras takes seven times their memory


def bottleneck_features(
    model: keras.Model, table: pd.DataFrame, data_dir: Path, *, blocks: str | Sequence[str] = "mixed10", **options: Any
) -> np.ndarray:
    """`block_features` with the blocks side by side: float16 (N, ΣD). Options and errors are the same."""
    arrays = list(block_features(model, table, data_dir, blocks=blocks, **options).values())
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=1)


def block_features(
    model: keras.Model,
    table: pd.DataFrame,
    data_dir: Path,
    *,
    cache_dir: Path,
    blocks: str | Sequence[str],
    batch_size: int = 32,
    precision: str = "float32",
    where: str = "local",
    cluster: Mapping[str, Any] | None = None,
    max_pixels: int | None = None,
    progress: bool = True,
) -> dict[str, np.ndarray]:
    """Pooled backbone outputs of every row of the images table, block by block: name → float16 (N, D).

    Args:
        model: a classifier; the backbone and its rescaling are used, the head is not.
        table: rows of the images table (`path`, `sha256`); rows with a problem are never opened and come out as NaN, as
            do those whose file has changed or broken since the scan, with a warning.
        data_dir: the folder that `path` is relative to; with "ray" every machine reaches it under this path.
        cache_dir: shared by runs. Rows are kept by content hash and by identity of the weights, so that renamed,
            relabelled and copied files cost nothing. Interrupt or kill it: the next call goes on where it stopped.
        blocks: layer names, e.g. "mixed4" (768 wide) or ("mixed4", "mixed10"); several cost one decoding.
        batch_size: pictures a forward pass; on a GPU a few hundred are faster.
        precision: "float32"; "bfloat16", by OpenVINO on a processor that has it, twice as fast, kept apart from
            float32: 0.7 to 1 % off in norm, ranking wrong labels of the demo at AP .928 for .931; or "auto":
            bfloat16 where OpenVINO is installed on such a processor, and there is no GPU.
        where: "local", or "ray" for the machines of a cluster, in float32.
        cluster: options of `model.cluster_answers`: runtime, workers, address, actors, cpus, gpus.
        max_pixels: as in `data.scan`; by default that of the scan that made the table.

    Raises:
        ValueError: the backbone has no such block, or features no such precision.
        FloatingPointError: the model's answer is not finite.
        OSError: `cache_dir` is read-only or full; what was computed before is kept.
    """
    if precision not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"precision of features must be auto, float32 or bfloat16. Received: {precision!r}.")
    able = precision == "auto" and openvino_usable() and has_bfloat16()
    lowered = where == "local" and (precision == "bfloat16" or able)
    folders = _folders(model, cache_dir, blocks, "-bfloat16" if lowered else "")
    missing, absent = _missing(table, folders)
    if len(missing):
        writable_folder(Path(cache_dir) / "features", "cache_dir")  # before anything is computed
        files = Files(str(data_dir), max_pixels=max_pixels or table.attrs.get("max_pixels", MAX_PIXELS))
        options = {"files": files, "size": image_size(model), "batch_size": batch_size}
        if where == "ray":
            options |= {"model": model, "blocks": list(folders), **(cluster or {})}
            found = cluster_answers(enumerate(missing["path"]), **options)
        else:
            forward = forward_pass(model, list(folders), bfloat16=lowered, cache_dir=cache_dir)
            found = stream_answers(enumerate(missing["path"]), forward=forward, reduce=first_frame, **options)
        _keep(found, missing, absent, progress)
    keys = table["sha256"]
    return {block: read_rows(at, row_positions(at, keys, width), width) for block, (at, width) in folders.items()}


def head_answers(model: keras.Model, table: pd.DataFrame, data_dir: Path, *, cache_dir: Path) -> np.ndarray:
    """Probabilities float32 (N, K) by the features of `block_features`, whose errors these are; NaN where those are."""
    seen = bottleneck_features(model, table, data_dir, cache_dir=cache_dir, blocks=head_blocks(model))
    head, starts = head_model(model), range(0, len(seen), _AT_ONCE)
    parts = [head.predict_on_batch(seen[i : i + _AT_ONCE].astype(np.float32)) for i in starts]
    return np.concatenate([np.empty((0, model.output_shape[-1]), np.float32), *parts])


def missing_rows(
    model: keras.Model, table: pd.DataFrame, *, cache_dir: Path, blocks: str | Sequence[str]
) -> pd.DataFrame:
    """The rows of the images table, one a content, whose features are yet to be computed by `block_features`."""
    return _missing(table, _folders(model, cache_dir, blocks))[0]


def _missing(table: pd.DataFrame, folders: Mapping[str, tuple[Path, int]]) -> tuple[pd.DataFrame, dict]:
    """Rows, one a content, that a folder lacks; and folder → which of these it lacks, bool (rows,)."""
    usable = table[table["problem"].eq("")] if "problem" in table else table
    unique = usable.drop_duplicates("sha256")
    absent = {folder: row_positions(folder, unique["sha256"], width) < 0 for folder, width in folders.values()}
    lacking = np.any(list(absent.values()), axis=0)
    return unique[lacking], {folder: lacks[lacking] for folder, lacks in absent.items()}


def _folders(
    model: keras.Model, cache_dir: Path, blocks: str | Sequence[str], ending: str = ""
) -> dict[str, tuple[Path, int]]:
    """Folder and width of each block's features."""
    blocks = [blocks] if isinstance(blocks, str) else blocks
    names = {block: f"{block}-{model_identity(model, block)}{ending}" for block in blocks}
    root = Path(cache_dir) / "features"
    return {block: (root / name, block_output(model, block).shape[-1]) for block, name in names.items()}


def _keep(
    found: Generator[list[Answer], None, None], rows: pd.DataFrame, absent: Mapping[Path, np.ndarray], progress: bool
) -> None:
    """Store answers as they come, those at hand when an interrupt comes too; warn of files that have none."""
    keys, paths = rows["sha256"].to_numpy(), rows["path"].to_numpy()
    pending, problems = [], []

    def store() -> None:
        try:
            for i, (folder, lacks) in enumerate(absent.items()):
                if new := [(answer.sha256, answer.values[i]) for answer in pending if lacks[answer.position]]:
                    append_rows(folder, [key for key, _ in new], np.stack([values for _, values in new]))
        except OSError as error:
            raise OSError(
                f"No room for features in {folder}, or no permission ({error.strerror}). Free some, or choose another "
                "cache_dir, and run again: what was computed before stays."
            ) from error
        pending.clear()

    bar = tqdm(total=len(rows), desc="features", unit="img", disable=not progress)
    with bar, contextlib.closing(saving(found, store, every=STORE_SECONDS)) as batches:
        for answer in itertools.chain.from_iterable(batches):
            if answer.values is not None and answer.sha256 == keys[answer.position]:
                pending.append(answer)
            else:
                why = answer.problem or "changed since the scan; scan again"
                problems.append(f"{paths[answer.position]}: {why}")
            bar.update()
    if problems:
        warnings.warn(f"{len(problems):,} files have no features. The first: {problems[0]}.", stacklevel=3)


def append_rows(folder: Path, keys: Sequence[str], rows: np.ndarray) -> None:
    """Add `rows` (n, D) under `keys`, n hex sha256, as float16; on disk on return. An OSError costs none of before."""
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
