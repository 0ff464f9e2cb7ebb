"""Which files are to be scored, and what do they show? Folders, lists, globs, tables, URLs; stills and animations."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from nsfwlib import dataset, images, scanning

DAMAGED = "damaged animation"  # the flag of images.decode where frames cannot be counted
ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")
FRAME_PIXELS = 40 * images.MAX_PIXELS  # a frame needs those before it: so many pixels are decoded for one animation
Row = tuple[str, str, str]  # path as tables write it, problem, detail


@dataclass(frozen=True)
class Files:
    """Where the files lie: small enough to be sent to another machine.

    Attributes:
        root: a folder, or "" where paths stand on their own.
        filesystem: an fsspec file system, None for this machine's own.
    """

    root: str = ""
    filesystem: Any = None

    def read(self, path: str) -> bytes:
        """All bytes of the file at `path`, written as in the images table.

        Raises:
            ImageProblem: missing, unreadable, not a regular file, empty file, too many bytes.
        """
        if self.filesystem is None:
            return images.read_bytes(dataset.file_path(Path(self.root), path))
        file = dataset.file_path(Path(), path).as_posix()
        try:
            with self.filesystem.open(f"{self.root}/{file}" if self.root else path, "rb") as stream:
                data = stream.read(images.MAX_BYTES + 1)
        except FileNotFoundError:
            raise images.ImageProblem("missing") from None
        except Exception as error:  # every store has its own kinds
            raise images.ImageProblem("unreadable", f"{type(error).__name__}: {error}") from None
        if len(data) > images.MAX_BYTES:
            raise images.ImageProblem("too many bytes", f"more than {images.MAX_BYTES:,}")
        return images.read_bytes(data)


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


def open_source(source: Any, *, data_dir: Path | None = None, filesystem: Any = None) -> tuple[Files, Iterator[Row]]:
    """What `source` names → where it lies, and its rows, one a file, as they are found.

    Args:
        source: a folder (walked as the scan does), a glob, a file, a list of these files, a table with the column
            `path` (a DataFrame, or a .parquet or .csv file), or a URL that fsspec knows such as "s3://bucket/folder".
        data_dir: what the paths of a list or table are relative to; by default the current folder.
        filesystem: an fsspec or pyarrow file system on which `source` lies.

    Raises:
        FileNotFoundError: there is no such folder or file.
        ValueError: it names nothing, or a table has no column `path`.
    """
    if isinstance(source, pd.DataFrame):
        return Files(str(data_dir or ""), _fsspec(filesystem)), _table_rows(source)
    if not isinstance(source, str | os.PathLike):
        return _open_list(list(source), data_dir, filesystem)
    text = os.fspath(source)
    if filesystem is not None or "://" in text:
        return _open_remote(text, filesystem)
    path = Path(text)
    if path.is_dir():
        return Files(str(path)), (
            (dataset.table_path(p), problem, detail) for p, problem, detail in scanning.walk(path)
        )
    if path.suffix in (".parquet", ".csv") and path.is_file():
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, keep_default_na=False)
        return Files(str(data_dir or "")), _table_rows(table)
    if path.is_file():
        return Files(), iter([(dataset.table_path(text), "", "")])
    if glob.has_magic(text):
        found = sorted(p for p in glob.iglob(text, recursive=True) if Path(p).is_file())  # noqa: PTH207 - any pattern
        return _open_list(found or _no_match(text), None, None)
    raise FileNotFoundError(f"There is no folder, file or glob {text}. Name a folder of images, or quote the glob.")


def _no_match(pattern: str) -> list:
    raise FileNotFoundError(f"There is no file that matches {pattern}.")


def _open_list(paths: list, data_dir: Path | None, filesystem: Any) -> tuple[Files, Iterator[Row]]:
    if not paths:
        raise ValueError("Expected files to score. Received none: the list is empty.")
    texts = [os.fspath(path) for path in paths]
    if filesystem is None and "://" in texts[0]:
        filesystem = _url_filesystem(texts[0])[0]
    files = Files(str(data_dir or ""), _fsspec(filesystem))
    return files, ((dataset.table_path(text), "", "") for text in texts)


def _table_rows(table: pd.DataFrame) -> Iterator[Row]:
    if "path" not in table:
        raise ValueError(f"Expected a table with the column path. Received: {', '.join(map(str, table.columns))}.")
    if not len(table):
        raise ValueError("Expected files to score. Received none: the table is empty.")
    known = table["problem"].fillna("") if "problem" in table else [""] * len(table)
    details = table["detail"].fillna("") if "detail" in table else [""] * len(table)
    return zip(table["path"], known, details, strict=True)


def _open_remote(text: str, filesystem: Any) -> tuple[Files, Iterator[Row]]:
    filesystem, root = _url_filesystem(text) if filesystem is None else (_fsspec(filesystem), text)
    if glob.has_magic(root):
        return _open_list(sorted(filesystem.glob(root)) or _no_match(text), None, filesystem)
    if filesystem.isdir(root):
        root = root.rstrip("/")
        return Files(root, filesystem), _walk_remote(filesystem, root)
    if not filesystem.exists(root):
        raise FileNotFoundError(f"There is no folder or file {text}.")
    return Files("", filesystem), iter([(dataset.table_path(root), "", "")])


def _walk_remote(filesystem: Any, root: str) -> Iterator[Row]:
    start = len(filesystem._strip_protocol(root))
    for folder, _, names in filesystem.walk(root):
        below = filesystem._strip_protocol(folder)[start:].strip("/")
        for name in sorted(names):
            path = f"{below}/{name}".lstrip("/")
            skipped = any(scanning.is_skipped(part) for part in path.split("/"))
            yield dataset.table_path(path), "skipped: hidden or litter" if skipped else "", ""


def _url_filesystem(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{url} cannot be opened: {error}") from error


def _fsspec(filesystem: Any) -> Any:
    """pyarrow's file systems behind fsspec's interface; fsspec's as they are."""
    if filesystem is None or hasattr(filesystem, "cat_file"):
        return filesystem
    from fsspec.implementations.arrow import ArrowFSWrapper

    return ArrowFSWrapper(filesystem)


def load_picture(files: Files, path: str, *, size: int, frames: int, skip: Iterable[str] | Any = ()) -> Picture:
    """Read, hash and decode one file; never raises for what is wrong with it.

    Args:
        size: side S of the pictures that the model takes.
        frames: of an animation, at most so many frames are sampled evenly; 1 takes the first alone.
        skip: a container of sha256: those are read and hashed, but not decoded.
    """
    sha256 = ""
    try:
        data = files.read(path)
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 in skip:
            return Picture(sha256)
        pixels, detail = load_frames(data, size=size, frames=frames)
        return Picture(sha256, pixels, "", detail)
    except images.ImageProblem as problem:
        return Picture(sha256, None, problem.reason, problem.detail)


class _Everything:
    def __contains__(self, sha256: str) -> bool:
        return True


def hashed(files: Files, path: str) -> Picture:
    """Read and hash one file, decode nothing."""
    return load_picture(files, path, size=1, frames=1, skip=_Everything())


def deadly(files: Files, suspects: Sequence[tuple[int, str]]) -> list[Answer]:
    """Answers for those of the (position, path) that end or hold the process that decodes them; tried in others."""
    if files.filesystem is not None or not suspects:
        return []
    paths = [str(dataset.file_path(Path(files.root), path)) for _, path in suspects]
    found = []
    for i, row in scanning.inspect_files(paths, {}):
        if row["problem"] in ("crashed the decoder", "took too long"):
            position, path = suspects[i]
            found.append(
                Answer(position, hashed(files, path).sha256, 0, None, row["problem"], images.REASONS[row["problem"]])
            )
    return found


def load_frames(data: bytes, *, size: int, frames: int) -> tuple[np.ndarray, str]:
    """Evenly sampled frames of an animated GIF, WebP, APNG or AVIF, of anything else the picture.

    Returns:
        uint8 (F, size, size, 3), 1 ≤ F ≤ `frames`, each as `images.load_image` gives a still; and a sentence if some
        frames could not be read, else "".

    Raises:
        ImageProblem: not even the first frame can be read.
    """
    decoded = images.decode(data)
    first = np.asarray(_resized(decoded.picture, size))
    moving = decoded.frames > 1 or DAMAGED in decoded.flags
    if frames < 2 or not moving or decoded.format not in ANIMATED:
        return first[None], ""
    found = [first]
    with Image.open(io.BytesIO(data), formats=[decoded.format]) as animation:
        count = _count_frames(animation, decoded)
        reach = max(1, min(count, FRAME_PIXELS // (decoded.width * decoded.height)))
        for number in np.unique(np.linspace(0, reach - 1, min(frames, reach)).round().astype(int))[1:].tolist():
            try:
                animation.seek(number)
                picture, _ = images._to_rgb(animation.copy(), [])
            except Exception as error:  # as in images.decode: decoders raise many kinds
                return np.stack(found), f"frame {number + 1} of {count} cannot be read ({error})"
            found.append(np.asarray(_resized(picture, size)))
    if DAMAGED in decoded.flags:
        return np.stack(found), f"damaged after {count} frames"
    return np.stack(found), "" if reach == count else f"sampled from the first {reach} of {count} frames"


def _count_frames(animation: Image.Image, decoded: images.Decoded) -> int:
    """How many frames there are; of a damaged animation, how many come before the damage."""
    if DAMAGED not in decoded.flags:
        return decoded.frames
    count, most = 1, max(1, FRAME_PIXELS // (decoded.width * decoded.height))
    with contextlib.suppress(Exception):
        while count < most:
            animation.seek(count)
            count += 1
    return count


def _resized(picture: Image.Image, size: int) -> Image.Image:
    return picture.resize((size, size), Image.Resampling.BILINEAR)
