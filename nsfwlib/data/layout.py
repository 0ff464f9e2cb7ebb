"""Are the folders on top classes, or train, val and test with the classes inside? One answer for all who ask."""

import pandas as pd

from nsfwlib.data.crawl import is_skipped

SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "eval": "test",
}  # lower case
LAYOUTS = ("auto", "classes", "splits")


def layout_of(table: pd.DataFrame) -> str:
    """How the folders of an images table are read: "classes" (class/…) or "splits" (split/class/…).

    What `scan` was told or found stands in `attrs["layout"]`; a table without it is judged by its column `path`, as
    `scan` does: splits if every folder on top has the name of a split and most files lie in folders inside. Where
    other folders stand beside them, it takes train, another split, and a class folder that both have.
    """
    if table.attrs.get("layout"):
        return table.attrs["layout"]
    inside: dict[str, set[str]] = {}
    deeper = 0  # files in folders inside the splits, less those that lie in the splits themselves
    for path in table["path"]:
        folders = path.split("/", 2)[:-1]
        if not folders or any(map(is_skipped, folders)) or path.endswith("/"):
            continue
        below = inside.setdefault(folders[0], set())
        below.update(folders[1:])
        if folders[0].lower() in SPLIT_FOLDERS:
            deeper += 2 * len(folders) - 3
    named = {top: SPLIT_FOLDERS[top.lower()] for top in inside if top.lower() in SPLIT_FOLDERS}
    if deeper <= 0 or len(named) == len(inside):
        return "splits" if deeper > 0 else "classes"
    train, others = (set().union(*(inside[t] for t, s in named.items() if (s == "train") == is_it)) for is_it in (1, 0))
    return "splits" if train & others else "classes"


def place(path: str, layout: str) -> tuple[str, str]:
    """(class folder, split) of a path; no class folder: the file lies outside."""
    folders = path.split("/")[:-1]
    if layout == "classes":
        return (folders[0] if folders else ""), ""
    split = SPLIT_FOLDERS.get(folders[0].lower(), "") if folders else ""
    return (folders[1] if split and len(folders) > 1 else ""), split


def said_of(top: list[str], layout: str) -> str:
    """What was taken for what, in a sentence; "" where no folder on top has the name of a split."""
    named = [f"{name!r} as {SPLIT_FOLDERS[name.lower()]}" for name in top if name.lower() in SPLIT_FOLDERS]
    if not named:
        return ""
    if layout == "classes":
        return f'Each folder on top is read as a class: {", ".join(top)}. If some are splits pass layout="splits".'
    others = [name for name in top if name.lower() not in SPLIT_FOLDERS]
    beside = f"; left out: {', '.join(others)}" if others else ""
    return f'Folders on top are read as splits: {", ".join(named)}{beside}. If they are classes pass layout="classes".'
