"""What is in the folders? The images table, a row a file."""

import contextlib
import itertools
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from nsfwlib.data.crawl import inspect_files
from nsfwlib.data.images import MAX_PIXELS, MOST_PIXELS
from nsfwlib.data.inspection import COLUMNS
from nsfwlib.data.layout import is_skipped, layout_of, place, said_of, split_of, walk_files
from nsfwlib.data.screening import LAW, load_hashes
from nsfwlib.files import file_path, table_path

DEFAULT_CLASSES = ("drawings", "hentai", "neutral", "porn", "sexy")
UNLABELLED = ("unlabelled", "unlabeled")
_COLUMNS = "path sha256 split group frames given_label label weight predicted problem detail scored_by decision"
DECISION_WORDS = ("keep", "drop", "unsure", "escalate", "undo", "redo")  # what a line of the journal says but a class
RESERVED = frozenset({*_COLUMNS.split(), *DECISION_WORDS, "unsafe_score"})  # a class is a column, and a decision
OUTSIDE = "skipped: not in a class folder"
_MEASURED = {**COLUMNS, "phash": np.uint64(0), "phash_mirror": np.uint64(0)}


def scan(
    data_dir: Path,
    *,
    cache_dir: Path | None = None,
    progress: bool = True,
    class_map: Mapping[str, str] | None = None,
    layout: str = "auto",
    source: str | None = None,
    screen: Path | None = None,
    screen_kind: str = "",
    screen_distance: int = 31,
    max_pixels: int = MAX_PIXELS,
    min_side: int = 16,
    workers: int | None = None,
) -> pd.DataFrame:
    """Read `<class>/**` or `<split>/<class>/**` → the images table, one row per file found, sorted by path.

    Columns: path, given_label, split, sha256, phash, phash_mirror, source, group (-1, see `data.group_duplicates`),
    width, height, format, bytes, frames, problem ("" if usable, a key of `data.REASONS`, or "skipped: …"), detail,
    oddities (what excludes nothing, joined by "; "), brightness, contrast, sharpness, entropy, grey, transparent.

    Args:
        cache_dir: keeps what was measured; an unchanged file is not opened again, a killed scan goes on.
        class_map: folder name → class; renames or merges folders, "" makes one unlabelled as `unlabelled` is itself.
        layout: "classes" or "splits": what the folders on top are; "auto" decides as `data.layout_of` says, and a
            warning tells what was taken for what. `attrs["layout"]` keeps it.
        source: a regular expression searched in each path; its group `source`, its first or all of it fill `source`.
        screen: a file of known-bad hashes; matches are marked "screened".
        screen_kind, screen_distance: of that list, as in `data.load_hashes`.
        max_pixels: as in `data.load_image`, `MOST_PIXELS` or less; `attrs["max_pixels"]` keeps it.
        workers: processes, all cores if None; 0 scans in this process.

    Raises:
        FileNotFoundError: `data_dir`, or the list of hashes, does not exist.
        OSError: the cache cannot be written, or (TimeoutError) another scan holds it.
        ValueError: `data_dir` is no folder, or has no class folders; `class_map`, `layout`, `max_pixels` do not fit.
    """
    data_dir = Path(data_dir)
    options: dict[str, Any] = {"max_pixels": max_pixels, "min_side": min_side}
    if screen is not None:
        options["screen"] = load_hashes(screen, kind=screen_kind, max_distance=screen_distance)
    if layout not in ("auto", "classes", "splits"):
        raise ValueError(f"layout must be one of auto, classes, splits. Received: {layout!r}.")
    if max_pixels > MOST_PIXELS:
        raise ValueError(f"max_pixels must be {MOST_PIXELS:,} or less: what is read later. Received: {max_pixels:,}.")
    found, classes = _find_files(data_dir, class_map or {}, layout)
    todo = np.flatnonzero(found["problem"] == "")
    root = str(data_dir.resolve())
    paths = [os.path.join(root, name) for name in found.pop("raw")[todo]]  # noqa: PTH118 - a million Paths are heavy
    texts = [name for name, value in _MEASURED.items() if isinstance(value, str)]
    columns = {name: np.full(len(found), value, object if name in texts else None) for name, value in _MEASURED.items()}
    columns |= {name: found.pop(name).to_numpy(object, copy=True) for name in ("problem", "detail")}
    # closing: an interrupted scan ends its workers and commits at once
    with contextlib.closing(inspect_files(paths, options, cache_dir=cache_dir, workers=workers)) as work:
        for k, row in tqdm(work, total=len(paths), disable=not progress, unit="image", desc="scan"):
            for name, column in columns.items():
                column[todo[k]] = row[name]
    table = pd.concat([found, pd.DataFrame(columns, index=found.index).astype(dict.fromkeys(texts, str))], axis=1)
    table.insert(6, "source", _sources(table["path"], source))
    table.insert(7, "group", -1)
    notes = found.attrs["notes"] + _what_is_odd(table, classes)
    if screen is not None:
        notes.append(("hash list", options["screen"].in_force()))
    named = [{"name": name, "message": message} for name, message in notes]
    table.attrs = {"layout": found.attrs["layout"], "max_pixels": max_pixels, "warnings": named}
    return table


def _find_files(data_dir: Path, class_map: Mapping[str, str], layout: str) -> tuple[pd.DataFrame, list[str]]:
    """Every file, sorted by path: path, given_label, split, problem, detail, raw (the system's name); classes."""
    top = _top_folders(data_dir)
    found = pd.DataFrame(walk_files(data_dir), columns=["raw", "problem", "detail"], dtype=object)
    found = found.assign(path=found["raw"].map(table_path)).sort_values("path", ignore_index=True)
    layout = layout_of(found) if layout == "auto" else layout
    splits = [name for name in top if split_of(name)]
    if layout == "splits" and not splits:
        raise ValueError(f'layout="splits" expects train, val or test on top. Received: {", ".join(top)}.')
    places = pd.DataFrame([place(path, layout) for path in found["path"]], columns=["folder", "split"], dtype=object)
    inside = (folder.name for split in splits for folder in (data_dir / split).glob("*/"))  # empty ones, too
    there = top if layout == "classes" else (name for name in inside if not is_skipped(name))
    names = {*places["folder"]} - {""} | {table_path(name) for name in there}
    if unknown := sorted(set(class_map) - names):
        raise ValueError(f"class_map names folders that are not there: {unknown}. Found: {sorted(names)}.")
    merged = {name: class_map.get(name, "" if name.lower() in UNLABELLED else name) for name in names} | {"": ""}
    outside = places["folder"].eq("") & found["problem"].eq("")
    table = found[["path"]].assign(given_label=places["folder"].map(merged), split=places["split"])
    table = table.assign(problem=found["problem"].mask(outside, OUTSIDE), detail=found["detail"]).astype(str)
    said = said_of(top, layout)
    table.attrs = {"layout": layout, "notes": [("layout of the folders", said)] if said else []}
    classes = sorted(set(merged.values()) - {""}, key=lambda name: (_look(name), name))
    return table.assign(raw=found["raw"]), classes


def _top_folders(data_dir: Path) -> list[str]:
    expected = "Expected a folder with one folder per class, and images in those."
    try:
        entries = list(data_dir.iterdir())
    except FileNotFoundError:
        raise FileNotFoundError(f"data_dir does not exist: {data_dir}. {expected}") from None
    except OSError as error:
        raise ValueError(f"data_dir is not a folder to read: {data_dir} ({error.strerror}). {expected}") from None
    if not (top := sorted(entry.name for entry in entries if entry.is_dir() and not is_skipped(entry.name))):
        what = "has no class folders" if entries else "is empty"
        way_out = f"Move the images into one folder per class, for example {', '.join(DEFAULT_CLASSES)}."
        raise ValueError(f"data_dir {what}: {data_dir}. {way_out}")
    return top


def _sources(paths: pd.Series, pattern: str | None) -> pd.Series:
    expression = re.compile(pattern or "")
    part = "source" if "source" in expression.groupindex else min(expression.groups, 1)
    return paths.map(expression.search).map(lambda match: match[part] or "" if match else "").astype(str)


def _what_is_odd(table: pd.DataFrame, classes: list[str]) -> list[tuple[str, str]]:
    found = []
    counts = table[table["problem"] == ""].groupby("given_label").size()
    for _, twins in itertools.groupby(classes, key=_look):
        *others, kept = twins
        if others:  # ASCII tells apart what two spellings of one accent, or a blank at the end, do not show
            listed = ", ".join(f"{name!a} ({counts.get(name, 0)} images)" for name in (*others, kept))
            way_out = f"To merge them pass class_map={{{', '.join(f'{name!a}: {kept!a}' for name in others)}}}."
            found.append(("look-alike classes", f"{listed} look alike and count apart. {way_out}"))
    for name in classes:
        if name not in counts:
            found.append(("empty class", f"The class {name!r} has no usable image; it is left out. Fill or remove it."))
    problems = table["problem"].value_counts()
    if OUTSIDE in problems:
        said = f"{problems[OUTSIDE]} files lie in no class folder and are left out. Move them into one."
        found.append(("outside the class folders", said))
    if "screened" in problems:
        found.append(("screened", f"{problems['screened']} files match the list of known-bad hashes. {LAW}"))
    return found


def _look(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold().strip()


def warnings_of(table: pd.DataFrame) -> pd.DataFrame:
    """The named warnings of a scan → columns name, message."""
    return pd.DataFrame(table.attrs.get("warnings", []), columns=["name", "message"])


def check_usable(table: pd.DataFrame) -> list[str]:
    """The classes that can be trained on, sorted.

    A ValueError where fewer than two have a usable image, or a name is one of `RESERVED`, or that of another class with
    `_max` behind it, which score tables use.
    """
    usable = table[(table["problem"] == "") & (table["given_label"] != "")]
    if not (classes := sorted(usable["given_label"].unique())):
        reasons = table.loc[table["problem"] != "", "problem"].value_counts().to_dict()
        said = f"No usable labelled image in the images table, among {len(table)} files {reasons}."
        raise ValueError(f"{said} The column `problem` says why each was left out.")
    if len(classes) == 1:
        said = f"Only one class in the images table has usable images: {classes[0]!r} ({len(usable)})."
        raise ValueError(f"{said} A classifier needs at least two: add a folder with images of another class.")
    check_class_names(classes)
    return classes


def check_there(table: pd.DataFrame, data_dir: Path) -> None:
    """A FileNotFoundError where usable pictures of the images table are gone from their places, with the way out."""
    usable = table.loc[table["problem"].eq(""), "path"]
    gone = [path for path in usable if not os.path.exists(file_path(data_dir, path))]  # noqa: PTH110 - of a million
    if gone:
        said = f"{len(gone):,} of {len(usable):,} pictures are no longer where notebook 01 saw them, first: {gone[0]}"
        way_out = "Put them back, or run 01_explore_data again with the same run_dir."
        raise FileNotFoundError(f"{said} in {data_dir}. {way_out}")


def may_be_class(name: str) -> bool:
    """Whether a class of this name can be told from a decision, however a person writes it."""
    return name.casefold() not in ("", *DECISION_WORDS) and name == name.strip().strip("\"'`")


def check_class_names(classes: Sequence[str]) -> None:
    """A ValueError for names that tables or the journal use themselves, in which a class is a column and a word."""
    used = RESERVED | {f"{name}_max" for name in classes}
    if taken := [name for name in classes if name in used or not may_be_class(name)]:
        renamed = ", ".join(f"{name!r}: {'class ' + name!r}" for name in taken)
        way_out = f"class_map={{{renamed}}} (in notebook 01 the parameter class_map)"
        said = f"Classes are called like a column of a table, or like a decision: {', '.join(taken)}."
        raise ValueError(f"{said} Scan again with other names, the folders may stay: {way_out}.")
