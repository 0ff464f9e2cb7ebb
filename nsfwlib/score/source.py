"""Which files are to be scored, and what do they show? Folders, lists, globs, tables, URLs; stills and animations."""

import glob
import heapq
import itertools
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd

from nsfwlib.data import REASONS, inspect_files, is_skipped, walk_files
from nsfwlib.files import file_path, read_text_table, table_path
from nsfwlib.model import Answer, Files, hashed, load_picture

SAMPLE_SECONDS = 60.0  # for one file of a sample
Row = tuple[str, str, str]  # path as tables write it, problem, detail


def open_source(source: Any, *, data_dir: Path | None = None, filesystem: Any = None) -> tuple[Files, Iterator[Row]]:
    """What `source` names → where it lies, and its rows, one a file, as they are found; arguments as in `score`."""
    files, rows = _opened(source, data_dir, filesystem)
    first = next(rows, None)
    if first is None:
        named = source if isinstance(source, str | os.PathLike) else f"the {type(source).__name__}"
        raise ValueError(f"Expected files to score. Received none: {named} is empty. Name another.")
    return files, itertools.chain([first], rows)


def _opened(source: Any, data_dir: Path | None, filesystem: Any) -> tuple[Files, Iterator[Row]]:
    if isinstance(source, pd.DataFrame):
        return Files(str(data_dir or ""), _behind_fsspec(filesystem, "")[0]), _table_rows(source)
    if not isinstance(source, str | os.PathLike):
        return _open_list(list(source), data_dir, filesystem)
    text = os.fspath(source)
    filesystem, root = _behind_fsspec(filesystem, text)
    if filesystem is None:
        is_folder, exists, matches = os.path.isdir, os.path.exists, partial(glob.iglob, recursive=True)
    else:
        is_folder, exists, matches = filesystem.isdir, filesystem.exists, filesystem.glob
    if is_folder(root):
        root = str(Path(root)) if filesystem is None else root.rstrip("/")
        found = walk_files(Path(root)) if filesystem is None else _walk_remote(filesystem, root)
        return Files(root, filesystem), ((table_path(path), problem, detail) for path, problem, detail in found)
    if exists(root):
        if filesystem is None and root.endswith((".parquet", ".csv")):
            table = pd.read_parquet(root) if root.endswith(".parquet") else read_text_table(Path(root))
            return Files(str(data_dir or "")), _table_rows(table)
        return _open_list([root], None, filesystem)
    if not glob.has_magic(root):
        raise FileNotFoundError(f"There is no folder, file or glob {text}. Name a folder of images, or quote the glob.")
    found = matches(_below_folder(root, is_folder))
    if found := sorted(path for path in found if filesystem is not None or Path(path).is_file()):
        return _open_list(found, None, filesystem)
    raise FileNotFoundError(f"There is no file that matches {text}.")


def _below_folder(pattern: str, is_folder: Callable[[str], bool]) -> str:
    """The pattern, with the longest start of it that is a folder taken as it is written: `photos [2020]/*.jpg`."""
    for i in reversed(range(1, len(pattern))):
        if pattern[i] in ("/", os.sep) and is_folder(pattern[:i]):
            return glob.escape(pattern[:i]) + pattern[i:]
    return pattern


def _open_list(paths: list, data_dir: Path | None, filesystem: Any) -> tuple[Files, Iterator[Row]]:
    texts = [os.fspath(path) for path in paths]
    filesystem, _ = _behind_fsspec(filesystem, texts[0] if texts else "")
    return Files(str(data_dir or ""), filesystem), ((table_path(text), "", "") for text in texts)


def _table_rows(table: pd.DataFrame) -> Iterator[Row]:
    if "path" not in table:
        raise ValueError(f"Expected a table with the column path. Received: {', '.join(map(str, table.columns))}.")
    wrong = [path for path in table["path"] if not isinstance(path, str)]
    if wrong:
        raise ValueError(
            f"Expected text in the column path. Received: {wrong[0]!r} ({len(wrong):,} rows). Read the table with "
            "dtype=str: as a number 000123 is another name."
        )
    rows = table.reindex(columns=["path", "problem", "detail"]).astype(object).fillna({"problem": "", "detail": ""})
    return rows.itertuples(index=False, name=None)


def _walk_remote(filesystem: Any, root: str) -> Iterator[Row]:
    start = len(filesystem._strip_protocol(root))
    for folder, _, names in filesystem.walk(root):
        below = filesystem._strip_protocol(folder)[start:].strip("/")
        for name in sorted(names):
            path = f"{below}/{name}".lstrip("/")
            skipped = any(is_skipped(part) for part in path.split("/"))
            yield path, "skipped: hidden or litter" if skipped else "", ""


def _behind_fsspec(filesystem: Any, place: str) -> tuple[Any, str]:
    """What `place` lies on: the file system given or that of a URL, None for this machine's; and the place on it."""
    if filesystem is None and "://" in place:
        import fsspec

        try:
            return fsspec.core.url_to_fs(place)
        except (ImportError, ValueError) as error:
            raise ValueError(f"{place} cannot be opened: {error}") from error
    if filesystem is None or hasattr(filesystem, "cat_file"):
        return filesystem, place
    from fsspec.implementations.arrow import ArrowFSWrapper

    return ArrowFSWrapper(filesystem), place


def deadly_files(files: Files, suspects: Sequence[tuple[int, str]]) -> list[Answer]:
    """Answers for those of the (position, path) that end or hold the process that decodes them; tried in others."""
    if files.filesystem is not None or not suspects:
        return []
    paths = [str(file_path(Path(files.root), path)) for _, path in suspects]
    rows = ((suspects[i], row["problem"]) for i, row in inspect_files(paths, {"max_pixels": files.max_pixels}))
    deadly = [(at, path, why) for (at, path), why in rows if why in ("crashed the decoder", "took too long")]
    return [Answer(at, hashed(files, path), 0, None, why, REASONS[why]) for at, path, why in deadly]


def sample_pictures(files: Files, rows: Iterable[Row], *, size: int, count: int, least: int = 0) -> np.ndarray:
    """First frames of at most `count` pictures drawn from `rows`, uint8 (n, S, S, 3), the same each time.

    None where there are fewer than `least`, or a file ends or holds one of the processes that decode.
    """
    paths = (path for path, problem, _ in rows if not problem)
    drawn = heapq.nsmallest(count + count // 10, paths, key=lambda path: zlib.crc32(path.encode()))
    load = joblib.delayed(partial(load_picture, files, size=size, frames=1))
    try:
        enough = drawn if len(drawn) >= least else []
        loaded = joblib.Parallel(-1, timeout=SAMPLE_SECONDS)(load(path) for path in enough) if enough else []
    except (BrokenProcessPool, TimeoutError):
        loaded = []
    found = [picture.pixels for picture in loaded if picture.pixels is not None][:count]
    return np.concatenate(found) if found else np.empty((0, size, size, 3), np.uint8)
