"""What lies in the folders? The walk; and are those on top classes, or train, val and test with classes inside?"""

import collections
import os
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

LITTER = {"thumbs.db", "desktop.ini", "icon\r", "__macosx"}
_SPLITS = {  # lower case
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval"), "test"),
}


def split_of(folder: str) -> str:
    """The split that a folder's name says, "" if none."""
    return _SPLITS.get(folder.lower(), "")


def is_skipped(name: str) -> bool:
    """Hidden, or left behind by an operating system."""
    return name.startswith(".") or name.lower() in LITTER


def walk_files(data_dir: Path) -> Iterator[tuple[str, str, str]]:
    """Every file below `data_dir` → (relative path, problem, detail), in no particular order.

    Links to folders are followed after the real folders, each folder is entered once: what a link leads
    to a second time is a "link loop". Files in hidden folders and litter are "skipped: …". A folder that
    cannot be read has a row of its own, its path ends in the separator.
    """
    seen = {folder.stat()[1:3] for folder in data_dir.resolve().parents}  # numbers of the folder and of its disk
    pending, links = collections.deque([""]), collections.deque()
    while pending or links:
        folder = pending.popleft() if pending else links.popleft()
        identity = (data_dir / folder).stat()[1:3]
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
            path = os.path.join(folder, entry.name)  # noqa: PTH118 - a million Path objects cost memory
            if entry.is_dir(follow_symlinks=False):
                pending.append(path)
            elif hidden or is_skipped(entry.name):
                yield path, "skipped: hidden or litter", ""
            elif entry.is_symlink() and (data_dir / path).is_dir():
                links.append(path)
            else:
                yield path, "", ""


def layout_of(table: pd.DataFrame) -> str:
    """How the folders of an images table are read: "classes" (class/…) or "splits" (split/class/…).

    What `scan` was told or found stands in `attrs["layout"]`; a table without it is judged by its column `path`, as
    `scan` does: splits if every folder on top has the name of a split and most files lie in folders inside. Where
    other folders stand beside them, it takes train, another split, and a class folder that both have.
    """
    if table.attrs.get("layout"):
        return table.attrs["layout"]
    places = [path.split("/", 2)[:-1] for path in table["path"] if not path.endswith("/")]
    places = [folders for folders in places if folders and not any(map(is_skipped, folders))]
    inside, deeper = collections.defaultdict(set), 0
    for top, *below in places:
        inside[split_of(top)].update(below)
        deeper += 2 * len(below) - 1 if split_of(top) else 0  # files in folders of splits, less those beside these
    fits = "" not in inside or inside["train"] & (inside["val"] | inside["test"])
    return "splits" if deeper > 0 and fits else "classes"


def place(path: str, layout: str) -> tuple[str, str]:
    """(class folder, split) of a path; no class folder: the file lies outside."""
    top, below, *_ = [*path.split("/")[:-1], "", ""]
    if layout == "classes":
        return top, ""
    return (below if split_of(top) else ""), split_of(top)


def said_of(top: list[str], layout: str) -> str:
    """What was taken for what, in a sentence; "" where no folder on top has the name of a split."""
    if not (named := [f"{name!r} as {split_of(name)}" for name in top if split_of(name)]):
        return ""
    if layout == "classes":
        return f'Each folder on top is read as a class: {", ".join(top)}. If some are splits pass layout="splits".'
    others = [name for name in top if not split_of(name)]
    beside = f"; left out: {', '.join(others)}" if others else ""
    return f'Folders on top are read as splits: {", ".join(named)}{beside}. If they are classes pass layout="classes".'
