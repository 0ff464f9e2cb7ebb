"""What is in the folders? Scan them into the images table, split it by group, apply decisions to labels."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from nsfwlib import duplicates, images

DEFAULT_CLASSES = ("drawings", "hentai", "neutral", "porn", "sexy")
SPLITS = ("train", "val", "test")
SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
UNLABELLED = ("unlabelled", "unlabeled")
LITTER = {"thumbs.db", "desktop.ini", "icon\r", "__macosx"}
_ODD = re.compile(r"[\\\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_ESCAPE = re.compile(r"\\(\\|x[0-9a-f]{2}|u[0-9a-f]{4})")


def scan(
    data_dir: Path,
    *,
    cache_dir: Path | None = None,
    progress: bool = True,
    class_map: Mapping[str, str] | None = None,
    source: str | None = None,
    screen: Path | None = None,
    max_pixels: int = images.MAX_PIXELS,
    min_side: int = 16,
    workers: int | None = None,
) -> pd.DataFrame:
    """Read `<class>/**` or `<split>/<class>/**` → the images table, one row per file found.

    Columns: path, given_label, split, sha256, phash, phash_mirror, source, group, width, height, format,
    bytes, frames, problem, detail, flags and the measures brightness, contrast, sharpness, entropy, grey,
    transparent. `attrs["warnings"]` lists what a person should know, as {"name", "message"}.

    Args:
        class_map: folder name → class; renames or merges folders, "" makes a folder unlabelled.
        source: a regular expression searched in each path; its group called `source`, or its first group,
            or the whole match fills the `source` column.

    Raises:
        FileNotFoundError: `data_dir` does not exist.
        ValueError: `data_dir` is a file, or empty, or has no class folders.
    """
    data_dir = Path(data_dir)
    found = _find_files(data_dir, class_map=dict(class_map or {}))
    todo = found.index[found["problem"] == ""]
    paths = [file_path(data_dir, path) for path in found.loc[todo, "path"]]
    measured = _inspect_all(
        paths, progress=progress, workers=workers, max_pixels=max_pixels, min_side=min_side
    )
    rows = pd.DataFrame([images.EMPTY_INSPECTION] * len(found), index=found.index)
    if len(todo):
        rows.loc[todo] = pd.DataFrame(measured, index=todo)
    rows = rows.astype({"phash": np.uint64, "phash_mirror": np.uint64})
    rows["problem"] = rows["problem"].where(found["problem"] == "", found["problem"])
    table = pd.concat([found.drop(columns="problem"), rows], axis=1)
    table.insert(6, "source", _sources(table["path"], source))
    table.insert(7, "group", -1)
    table.attrs["warnings"] = _find_warnings(table)
    return table


def file_path(data_dir: Path, path: str) -> Path:
    r"""The file behind a `path` of the images table; everything that opens a file goes through here.

    Tables hold paths as one printable line of valid Unicode: a backslash, a control or text-direction
    character is written `\\` or `\u000a`, a byte that is not UTF-8 `\xff`.
    """
    if "\\" not in path:
        return Path(data_dir) / path
    return Path(data_dir) / _ESCAPE.sub(_unescape, path)


def table_path(relative: str) -> str:
    """The inverse of `file_path`: a path relative to `data_dir`, as the operating system names it → table form."""
    return _ODD.sub(_escape, relative.replace(os.sep, "/"))


def _escape(match: re.Match) -> str:
    character = match[0]
    code = ord(character)
    if character == "\\":
        return "\\\\"
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def _unescape(match: re.Match) -> str:
    text = match[1]
    if text == "\\":
        return "\\"
    return chr(int(text[1:], 16) + (0xDC00 if text[0] == "x" else 0))


def _find_files(data_dir: Path, *, class_map: dict[str, str]) -> pd.DataFrame:
    if not data_dir.exists():
        raise FileNotFoundError(
            f"data_dir does not exist: {data_dir}. Expected a folder with one folder per class."
        )
    if not data_dir.is_dir():
        raise ValueError(
            f"data_dir is not a folder: {data_dir}. Expected a folder with one folder per class."
        )
    top = sorted(entry.name for entry in data_dir.iterdir() if entry.is_dir() and not _is_skipped(entry.name))
    if not any(data_dir.iterdir()):
        raise ValueError(f"data_dir is empty: {data_dir}. Expected one folder per class with images in it.")
    if not top:
        raise ValueError(
            f"data_dir has no class folders: {data_dir}. Move the images into one folder per class, "
            f"for example {', '.join(DEFAULT_CLASSES)}."
        )
    has_splits = any(name.lower() in SPLIT_FOLDERS and _has_folders(data_dir / name) for name in top)
    records = [_record(path, problem, has_splits) for path, problem in _walk(data_dir)]
    found = pd.DataFrame(records, columns=["path", "folder", "split", "problem"]).sort_values("path")
    found = found.reset_index(drop=True)
    unknown = sorted(set(class_map) - set(found["folder"]))
    if unknown:
        raise ValueError(
            f"class_map names folders that are not there: {unknown}. Found: {sorted(set(found['folder']))}."
        )
    labels = found.pop("folder").map(lambda name: class_map.get(name, "" if name in UNLABELLED else name))
    found.insert(1, "given_label", labels)
    return found


def _has_folders(folder: Path) -> bool:
    return any(entry.is_dir() for entry in folder.iterdir())


def _is_skipped(name: str) -> bool:
    return name.startswith(".") or name.lower() in LITTER


def _walk(data_dir: Path) -> Iterator[tuple[str, str]]:
    for folder, folders, names in os.walk(data_dir):
        folders.sort()
        relative = os.path.relpath(folder, data_dir)
        prefix = "" if relative == "." else relative + os.sep
        for name in names:
            skipped = any(_is_skipped(part) for part in (prefix + name).split(os.sep))
            yield prefix + name, "skipped: hidden or litter" if skipped else ""


def _record(relative: str, problem: str, has_splits: bool) -> tuple[str, str, str, str]:
    parts = [table_path(part) for part in relative.split(os.sep)]
    split = SPLIT_FOLDERS.get(parts[0].lower(), "") if has_splits else ""
    folders = parts[1:-1] if split else parts[:-1]
    if not folders and not problem:
        problem = "skipped: not in a class folder"
    elif has_splits and not split and not problem:
        problem = "skipped: outside the split folders"
    return "/".join(parts), folders[0] if folders else "", split, problem


def _inspect_all(
    paths: Sequence[Path], *, progress: bool, workers: int | None, max_pixels: int, min_side: int
) -> list[dict]:
    batches = [paths[start : start + 16] for start in range(0, len(paths), 16)]
    workers = min(workers or os.cpu_count() or 1, len(batches))
    rows: list[dict] = []
    bar = tqdm(total=len(paths), disable=not progress, unit="image", desc="scan")
    with bar, ProcessPoolExecutor(max(workers, 1), mp_context=get_context("spawn")) as pool:
        options = [(max_pixels, min_side)] * len(batches)
        for part in pool.map(_inspect_batch, batches, options):
            rows += part
            bar.update(len(part))
    return rows


def _inspect_batch(paths: Sequence[Path], options: tuple[int, int]) -> list[dict]:
    max_pixels, min_side = options
    return [images.inspect(path, max_pixels=max_pixels, min_side=min_side) for path in paths]


def _sources(paths: pd.Series, pattern: str | None) -> pd.Series:
    if not pattern:
        return pd.Series("", index=paths.index, dtype=str)
    expression = re.compile(pattern)
    return paths.map(lambda path: _first_match(expression.search(path))).astype(str)


def _first_match(match: re.Match | None) -> str:
    if match is None:
        return ""
    named = match.groupdict().get("source")
    return (named or (match[1] if match.re.groups else match[0])) or ""


def _find_warnings(table: pd.DataFrame) -> list[dict]:
    found = []
    names = [name for name in table["given_label"].unique() if name]
    for name in names:
        twins = [other for other in names if other.casefold() == name.casefold() and other != name]
        if twins and name < twins[0]:
            found.append(
                {
                    "name": "look-alike classes",
                    "message": f"The folders {[name, *twins]} differ by case alone and count as separate classes. "
                    f"Merge them with class_map={{{name!r}: {twins[0]!r}}}.",
                }
            )
        if not ((table["given_label"] == name) & (table["problem"] == "")).any():
            found.append({"name": "empty class", "message": f"The class {name!r} has no usable image."})
    return found


def warnings_of(table: pd.DataFrame) -> pd.DataFrame:
    """The named warnings of a scan → columns name, message."""
    return pd.DataFrame(table.attrs.get("warnings", []), columns=["name", "message"])


def check_usable(table: pd.DataFrame) -> list[str]:
    """The classes that can be trained on, sorted.

    Raises:
        ValueError: no usable image at all, or only one class has any.
    """
    usable = table[(table["problem"] == "") & (table["given_label"] != "")]
    classes = sorted(usable["given_label"].unique())
    if not classes:
        raise ValueError(
            f"No usable labelled image among {len(table)} files. The column `problem` says why each was left out."
        )
    if len(classes) == 1:
        raise ValueError(
            f"Only one class has usable images: {classes[0]!r}. A classifier needs at least two."
        )
    return classes


def group_duplicates(
    table: pd.DataFrame, *, data_dir: Path | None = None, cache_dir: Path | None = None, max_distance: int = 4
) -> pd.Series:
    """Near-duplicate groups of the images table → int64 Series with its index; unusable rows get -1."""
    usable = table[table["problem"] == ""]
    groups = pd.Series(-1, index=table.index, name="group", dtype=np.int64)
    groups[usable.index] = duplicates.group_near_duplicates(
        usable["phash"].to_numpy(), mirrored=usable["phash_mirror"].to_numpy(), max_distance=max_distance
    )
    return groups


def assign_splits(
    table: pd.DataFrame,
    *,
    previous: pd.DataFrame | None = None,
    fractions: Sequence[float] = (0.7, 0.15, 0.15),
    seed: int = 0,
) -> pd.DataFrame:
    """Fill `split` by whole groups, stratified by class; rows with a problem get "".

    Splits that the folders gave are kept.
    """
    result = table.copy()
    result.loc[result["problem"] != "", "split"] = ""
    usable = result[(result["problem"] == "") & (result["split"] == "")]
    generator = np.random.default_rng(seed)
    groups = usable.groupby("group")["given_label"].agg(["first", "size"]).sort_index()
    for _, members in groups.groupby("first"):
        order = members.sample(frac=1, random_state=generator)
        middle = (order["size"].cumsum() - order["size"] / 2) / order["size"].sum()
        chosen = np.array(SPLITS)[np.searchsorted(np.cumsum(fractions)[:2], middle)]
        by_group = pd.Series(chosen, index=order.index)
        rows = usable.index[usable["group"].isin(order.index)]
        result.loc[rows, "split"] = usable.loc[rows, "group"].map(by_group)
    return result


def current_labels(table: pd.DataFrame, journal: Path | pd.DataFrame | None) -> pd.Series:
    """Given labels with decisions applied → Series with the table's index; NA where a row is out.

    Out are rows with a problem, without any label, and those dropped or escalated. "keep" and "unsure"
    leave the given label. A decision belongs to content: it applies to every row of that `sha256`.
    """
    labels = table["given_label"].where((table["problem"] == "") & (table["given_label"] != ""))
    if journal is None:
        return labels.rename("label")
    if not isinstance(journal, pd.DataFrame):
        from nsfwlib.journal import decisions

        journal = decisions(journal)
    decided = table["sha256"].map(journal.set_index("sha256")["decision"])
    decided = decided.where(table["problem"] == "")
    changed = decided.notna() & ~decided.isin(["keep", "unsure"])
    labels = labels.mask(changed, decided)
    return labels.mask(decided.isin(["drop", "escalate"])).rename("label")
