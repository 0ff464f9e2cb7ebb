"""How do decisions reach the folders, and how does every file find its way back?

`apply_decisions` plans first and moves only when told to; `roll_back` undoes all of it, by the move log of `moves`.
"""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from nsfwlib.data import is_skipped, layout_of, scan
from nsfwlib.files import file_path, table_path
from nsfwlib.labels.current import current_labels
from nsfwlib.labels.journal import decisions_in_force
from nsfwlib.labels.moves import Log, do_all, opened, undoing

MODES = ("move", "copy", "link")
COLUMNS = ("path", "given_label", "decision", "action", "target", "reason", "sha256")
_STAYS = {
    "": "no decision",
    "keep": "the given label was confirmed",
    "unsure": "the reviewer was not sure",
    "escalate": "escalated: never moved nor copied",
}
NAME_BYTES = 255  # the longest name that file systems take
_LISTED = (".bmp", ".gif", ".jpeg", ".jpg", ".png")  # what image_dataset_from_directory looks for


def apply_decisions(
    data_dir: Path,
    journal: Path | pd.DataFrame | None,
    *,
    dry_run: bool = True,
    mode: str = "move",
    out_dir: Path | None = None,
    log: Path | None = None,
    quarantine: Path | None = None,
    images: pd.DataFrame | None = None,
    cache_dir: Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Plan, and with `dry_run=False` carry out, what the decisions mean for the folders → one row a file.

    `mode="move"` moves files inside `data_dir` to the folder of their class, sub-folders and split kept, and dropped
    ones to `quarantine`. `"copy"` and `"link"` leave `data_dir` as it is and build `out_dir`, one flat folder per
    class (per split and class where `images` has splits) with usable, labelled files only: what
    `image_dataset_from_directory` reads, and fastai's `from_folder(…, valid="val")`.

    Nothing is ever overwritten: where a name is taken, `a.jpg` from the folder `porn` becomes `a.from-porn.jpg`. A file
    is touched only if its bytes are those that were decided on, links to files stay, and so does what was escalated,
    which is not exported either. What could not be done says why in `reason`. A killed call is finished by the next.

    Args:
        journal: of decisions, or its decisions in force as a table; None exports the given labels.
        log: the move log; beside the data (`<data_dir>_moves.jsonl`), or beside `out_dir`, by default.
        quarantine: for dropped files, outside of `data_dir`; `<data_dir>_dropped` by default.
        images: from `data.scan`; it may be older than earlier moves. Scanned anew, with `cache_dir`, if None.

    Returns:
        Columns `COLUMNS` and, unless `dry_run`, `done`. `action` is move, drop, copy, link or unchanged. `path` and
        `target` are as in the images table: `files.file_path(data_dir, …)` opens them.

    Raises:
        ValueError: a parameter does not fit; `out_dir` holds something else; `log` is another kind of file.
        FileNotFoundError: no such journal.
        TimeoutError: another program is using this log.
    """
    data_dir = Path(data_dir).resolve()
    goal = _goal(data_dir, mode, out_dir, quarantine)
    beside = data_dir if mode == "move" else goal
    log = Path(log) if log is not None else beside.with_name(f"{beside.name}_moves.jsonl")
    decided = _decided(journal, mode)

    with contextlib.nullcontext(Log(log)) if dry_run else opened(log) as state:
        table = images if images is not None else scan(data_dir, cache_dir=cache_dir, progress=progress)
        plan = _plan(_up_to_date(table, decided, data_dir, state), data_dir, goal, mode, state)
        if dry_run:
            return plan
        todo = plan[plan["action"] != "unchanged"]
        steps = todo[["action", "sha256"]].rename(columns={"action": "how"}).replace("drop", "move").to_dict("records")
        for op, path, target in zip(steps, todo["path"], todo["target"], strict=True):
            op |= {"src": file_path(data_dir, path), "dst": file_path(data_dir, target)}
        why = pd.Series(do_all(steps, state, progress, "apply"), todo.index, dtype=object)
    plan["done"] = plan.index.isin(why.index[why == ""])
    plan.loc[why.index[why != ""], "reason"] = why[why != ""]
    return plan


def roll_back(log: Path, *, progress: bool = True) -> pd.DataFrame:
    """Undo all that this log says was done, last step first → one row a step: path, target, done, reason.

    Files go back to their old places, names and times; exported copies and links are removed, and so are folders that
    were made for them. What someone changed since is left alone and says so; call again when that is mended. Errors are
    those of `apply_decisions`; a FileNotFoundError: there is no such log.
    """
    log = Path(log)
    if not log.exists():
        raise FileNotFoundError(f"There is no move log {log}: nothing was applied, or it was given another name.")
    with opened(log) as state:
        steps = [undoing(op) for op in reversed(state.placed.values())]
        reasons = do_all(steps, state, progress, "roll back")
        for folder in state.folders[::-1]:
            with contextlib.suppress(OSError):  # gone already, or somebody uses it
                folder.rmdir()
    paths, targets = ([table_path(str(op[end] or "")) for op in steps] for end in ("src", "dst"))
    return pd.DataFrame({"path": paths, "target": targets, "done": [not why for why in reasons], "reason": reasons})


def _goal(data_dir: Path, mode: str, out_dir: Path | None, quarantine: Path | None) -> Path:
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}. Received: {mode!r}.")
    if (out_dir is None) != (mode == "move"):
        raise ValueError(f"out_dir goes with the modes copy and link, and only these. Received: {mode=}, {out_dir=}.")
    goal = Path(out_dir or quarantine or data_dir.with_name(f"{data_dir.name}_dropped")).resolve()
    if goal.is_relative_to(data_dir):
        raise ValueError(f"{goal} lies in data_dir, where it would become a class. Give a folder outside {data_dir}.")
    return goal


def _decided(journal: Path | pd.DataFrame | None, mode: str) -> pd.Series:
    if journal is None and mode != "move":
        return pd.Series(dtype=str)
    if journal is None or not (isinstance(journal, pd.DataFrame) or Path(journal).exists()):
        raise FileNotFoundError(f"There is no decisions journal {journal}: there is nothing to apply.")
    return decisions_in_force(journal).drop_duplicates("sha256", keep="last").set_index("sha256")["decision"]


def _up_to_date(table: pd.DataFrame, decided: pd.Series, data_dir: Path, state: Log) -> pd.DataFrame:
    """The rows with `decision`, current `label`, and `path` as it is after earlier moves; `scanned` as it was."""
    rows = table[["path", "given_label", "split", "sha256", "problem"]].reset_index(drop=True)
    rows["scanned"] = rows["path"]
    rows["decision"] = rows["sha256"].where(rows["sha256"] != "").map(decided).astype(object).fillna("")
    lines = decided.rename("decision").rename_axis("sha256").reset_index()
    rows["label"] = current_labels(table, lines, new_classes=decided.unique()).array  # a plan shows a new folder
    moves = [op for op in state.placed.values() if op["how"] == "move"]
    moved = {_table_path(op["src"], data_dir): _table_path(op["dst"], data_dir) for op in moves}
    rows["path"] = [_follow(path, moved, data_dir) for path in rows["path"]] if moved else rows["path"]
    rows = rows.drop_duplicates("path", ignore_index=True)
    rows.attrs["depth"] = int(layout_of(table) == "splits")  # at which part of a path the class folder stands
    return rows


def _follow(path: str, moved: Mapping[str, str], data_dir: Path) -> str:
    seen = set()
    while path in moved and path not in seen and not os.path.lexists(file_path(data_dir, path)):
        seen.add(path)
        path = moved[path]
    return path


def _plan(rows: pd.DataFrame, data_dir: Path, goal: Path, mode: str, state: Log) -> pd.DataFrame:
    """What should happen to each file: what `apply_decisions` returns, before anything is done."""
    depth, root, has_splits = rows.attrs["depth"], _table_path(goal, data_dir), bool(rows["split"].ne("").any())
    labels = zip((path.split("/") for path in rows["scanned"]), rows["given_label"], strict=True)
    class_of = {p[depth]: label for p, label in labels if len(p) > depth + 1}
    folder_of = {label: folder for folder, label in class_of.items()} | {f: f for f, c in class_of.items() if f == c}
    steps = state.placed.values() if mode != "move" else ()
    placed = {_table_path(op["src"], data_dir): _table_path(op["dst"], data_dir) for op in steps}
    taken, wanted, plan = set(placed.values()), {}, []
    for row in rows.itertuples():
        parts = row.path.split("/")
        inner, here = parts[depth + 1 :], parts[depth] if len(parts) > depth + 1 else ""
        lies_in = class_of.get(here, here)
        if why := (_why_not_moved(row, lies_in, root) if mode == "move" else _why_not_exported(row, has_splits)):
            plan.append(("unchanged", placed.get(row.path, ""), why))
            continue
        action, reason = mode, f"decided: {row.decision}"
        if mode != "move":
            # one flat folder, as fastai takes the innermost one for the class, of names that TensorFlow can read
            name, reason = "__".join(inner).replace("\\", "%"), f"label: {row.label}"
            new = "/".join([root, *[row.split] * has_splits, row.label, name])
            if PurePosixPath(name).suffix.lower() not in _LISTED:
                reason += "; image_dataset_from_directory does not list this suffix"
        elif row.decision == "drop":
            action, new = "drop", f"{root}/{row.path}"
        else:
            folder = folder_of.get(row.decision, row.decision)
            new = "/".join([*parts[:depth], folder, *inner])
            reason += "" if folder in class_of else "; a new folder"
        wanted[row.path] = str(PurePosixPath(new).parent)
        if row.path in placed:
            plan.append(("unchanged", placed[row.path], "exported before"))
        else:
            target, note = _free_name(new, here, data_dir, taken)
            plan.append((action, target, reason + note))
    if mode != "move":
        _check_export(goal, placed, wanted, state)
    table = pd.DataFrame(plan, columns=["action", "target", "reason"], index=rows.index, dtype=str)
    return pd.concat([rows, table], axis=1)[list(COLUMNS)]


def _why_not_moved(row: Any, label: str, dropped: str) -> str:
    """Why a file that lies in the folder of `label` stays there, "" if it is to move."""
    drops = row.decision == "drop"
    if row.decision in _STAYS or row.problem == "screened" or (row.problem and not drops):
        return row.problem or _STAYS[row.decision]
    if row.decision == label:
        return "lies in the folder of its class"
    if not drops and not _is_folder_name(row.decision):
        return f"{row.decision!r} cannot be the name of a class folder"
    return "dropped before: roll_back brings it back" if row.path.startswith(f"{dropped}/") else ""


def _why_not_exported(row: Any, has_splits: bool) -> str:
    if row.problem or row.decision in ("escalate", "drop"):
        return row.problem or _STAYS.get(row.decision, "decided: drop")
    if pd.isna(row.label) or (has_splits and not row.split):
        return "has no label" if pd.isna(row.label) else "has no split, others have"
    return "" if _is_folder_name(row.label) else f"{row.label!r} cannot be the name of a class folder"


def _check_export(goal: Path, placed: Mapping[str, str], wanted: Mapping[str, str], state: Log) -> None:
    if goal.exists() and (not goal.is_dir() or set(goal.iterdir()) - set(state.folders)):
        raise ValueError(f"{goal} holds something else already. Give an out_dir that is empty or not there.")
    for path, target in placed.items():
        if wanted.get(path) != str(PurePosixPath(target).parent):
            said = f"{goal} was exported with other labels: now {path} belongs into {wanted.get(path)}."
            raise ValueError(f"{said} Give another out_dir, or roll_back that export first.")


def _is_folder_name(label: str) -> bool:
    name = str(file_path(Path(), label))
    return label not in ("", ".", "..") and not is_skipped(name) and not {"/", os.sep} & {*name, *label}


def _free_name(wanted: str, origin: str, data_dir: Path, taken: set[str]) -> tuple[str, str]:
    """A name nobody has or will have → (target, what to say about it)."""
    path, n = PurePosixPath(wanted), 1
    origin = table_path(file_path(Path(), origin).name[:40])  # a class may have a name as long as a file's
    target = f"{path.parent}/{_fitting(path.stem, path.suffix)}"
    note = "" if target == wanted else "; its name was too long and is cut"
    while target in taken or os.path.lexists(file_path(data_dir, target)):
        number = f".{n}" if n > 1 else ""
        target = f"{path.parent}/{_fitting(path.stem, f'.from-{origin}{number}{path.suffix}')}"
        n += 1
    taken.add(target)
    return target, note if n == 1 else f"{note}; {path.name} is taken"


def _fitting(stem: str, ending: str) -> str:
    """The name `stem` + `ending`, with so much cut from the stem that a file system takes it."""
    name, room = file_path(Path(), stem).name, NAME_BYTES - len(os.fsencode(file_path(Path(), ending).name))
    while len(os.fsencode(name)) > room and name:
        name = name[:-1]
    return table_path(name) + ending


def _table_path(path: Path, data_dir: Path) -> str:
    """As in the images table: relative to data_dir where it lies below, else absolute."""
    return table_path(str(path).removeprefix(f"{data_dir}{os.sep}"))
