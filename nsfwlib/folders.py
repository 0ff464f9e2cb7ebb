"""How do decisions reach the folders, and how does every file find its way back?

`apply_decisions` plans first and moves only when told to; `roll_back` undoes all of it. Between the two stands the
move log, one JSON object a line. A step is in the log, and the log on disk, before anything happens:

| line | meaning |
|---|---|
| `{"id", "how", "src", "dst", "sha256", "was", "mtime_ns", "undoes"}` | this is about to happen; `was`: see `copied` |
| `{"copied": [ino, size, mtime_ns]}` | across file systems: the copy is on disk, verified, under a temporary name |
| `{"done": id}`, `{"failed": id, "why"}` | how it ended |
| `{"mkdir"}`, `{"rmdir"}` | folders made for it, and removed again |
| `{"times": {folder: mtime_ns}}`, `{"restored"}` | how old folders were before anything; everything is as before |

One step is under way at a time, and from the log and the disk one can tell how far it got. So after a kill the next
call first brings that step to one of its two ends. Paths below the log's folder are relative to it.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import shutil
import stat
import uuid
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import filelock
import pandas as pd
from tqdm.auto import tqdm

from nsfwlib import dataset, scanning
from nsfwlib.journal import decisions

MODES = ("move", "copy", "link")
COLUMNS = ("path", "given_label", "decision", "action", "target", "reason", "sha256")
LOCK_SECONDS = 5
_HEADER = {"nsfwlib": "move log", "version": 1}
_STAYS = {
    "": "no decision",
    "keep": "the given label was confirmed",
    "unsure": "the reviewer was not sure",
    "escalate": "escalated: never moved nor copied",
}
_LISTED = (".bmp", ".gif", ".jpeg", ".jpg", ".png")  # what image_dataset_from_directory looks for
_ENDS_ALL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}  # the next file would fare no better
_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}
_SENTENCES = {
    errno.ENOENT: "vanished, it is not where it was: scan again",
    errno.EEXIST: "something else has taken its new name by now: plan again",
    errno.EACCES: "no permission to change it or its folder",
    errno.EPERM: "no permission to change it or its folder",
    errno.EROFS: "the disk is read-only",
    errno.ENOSPC: "the disk is full: free some space and call again, what is done is in the log",
    errno.EDQUOT: "the disk quota is used up: free some space and call again, what is done is in the log",
    errno.ENAMETOOLONG: "its new name would be too long for the file system",
}


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

    Nothing is ever overwritten: where a name is taken, `a.jpg` from the folder `porn` becomes `a.from-porn.jpg`. A
    file is touched only if its bytes are those that were decided on, links to files stay, and so does what was
    escalated, which is not exported either. What could not be done says why in `reason`,
    and a warning counts it. A call that was killed is finished by the next one.

    Args:
        journal: of decisions, or its decisions in force as a table; None exports the given labels.
        log: the move log; beside the data (`<data_dir>_moves.jsonl`), or beside `out_dir`, by default.
        quarantine: for dropped files, outside of `data_dir`; `<data_dir>_dropped` by default.
        images: from `dataset.scan`; it may be older than earlier moves. Scanned anew, with `cache_dir`, if None.

    Returns:
        Columns `COLUMNS` and, unless `dry_run`, `done`. `action` is move, drop, copy, link or unchanged. `path` and
        `target` are as in the images table: `dataset.file_path(data_dir, …)` opens them.

    Raises:
        ValueError: a parameter does not fit; `out_dir` holds something else; `log` is another kind of file.
        FileNotFoundError: no such journal.
        TimeoutError: another program is using this log.
    """
    data_dir = Path(data_dir).resolve()
    goal = _goal(data_dir, mode, out_dir, quarantine)
    log = Path(log) if log is not None else _beside(data_dir if mode == "move" else goal, "_moves.jsonl")
    decided = _decided(journal, mode)

    def plan(state: _State) -> pd.DataFrame:
        table = images
        if table is None:
            table = dataset.scan(data_dir, cache_dir=cache_dir, progress=progress)
        rows = _up_to_date(table, decided, data_dir, state)
        if mode == "move":
            return _plan_moves(rows, data_dir, goal)
        return _plan_export(rows, data_dir, goal, mode, state)

    if dry_run:
        state = _replay(_read(log)[0])
        if state.pending is not None:
            warnings.warn(
                f"An earlier call was interrupted: with dry_run=False its step on {state.pending['src']} "
                "is settled before anything is planned.",
                stacklevel=2,
            )
        return plan(state)
    with _opened(log) as (writer, state):
        steps = plan(state)
        return _carry_out(steps, data_dir, writer, state, progress)


def roll_back(log: Path, *, progress: bool = True) -> pd.DataFrame:
    """Undo all that this log says was done, last step first → one row a step: path, target, done, reason.

    Files go back to their old places, names and times; exported copies and links are removed, so are folders that
    were made for them, and folders get their old times when everything is back. What someone changed since is
    left alone and says so; call again when that is mended.

    Raises:
        FileNotFoundError: no such log.
        ValueError: the file is no move log.
        TimeoutError: another program is using it.
    """
    log = Path(log)
    if not log.exists():
        raise FileNotFoundError(f"There is no move log {log}: nothing was applied, or it was given another name.")
    with _opened(log) as (writer, state):
        steps = [_undoing(op) for op in reversed(state.placed.values())]
        reasons = _do_all(steps, writer, progress, "roll back")
        for folder in reversed(state.folders):
            with contextlib.suppress(OSError):  # gone already, or somebody uses it
                folder.rmdir()
                _append(writer, {"rmdir": folder})
        if not any(reasons) and state.times:
            for folder, mtime_ns in state.times.items():
                with contextlib.suppress(OSError):
                    os.utime(folder, ns=(folder.stat().st_atime_ns, mtime_ns))
            _append(writer, {"restored": True}, sync=True)
    rows = [(_shown(op["src"]), _shown(op["dst"]), not why, why) for op, why in zip(steps, reasons, strict=True)]
    return pd.DataFrame(rows, columns=["path", "target", "done", "reason"])


# --- what should happen


def _goal(data_dir: Path, mode: str, out_dir: Path | None, quarantine: Path | None) -> Path:
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}. Received: {mode!r}.")
    if (out_dir is None) != (mode == "move"):
        raise ValueError(f"out_dir goes with the modes copy and link, and only these. Received: {mode=}, {out_dir=}.")
    goal = out_dir if mode != "move" else quarantine or _beside(data_dir, "_dropped")
    goal = Path(goal).resolve()
    if goal.is_relative_to(data_dir):
        raise ValueError(f"{goal} lies in data_dir, where it would become a class. Give a folder outside {data_dir}.")
    return goal


def _beside(folder: Path, ending: str) -> Path:
    return folder.with_name(folder.name + ending)


def _decided(journal: Path | pd.DataFrame | None, mode: str) -> pd.Series:
    if journal is None and mode != "move":
        return pd.Series(dtype=str)
    if journal is None or not (isinstance(journal, pd.DataFrame) or Path(journal).exists()):
        raise FileNotFoundError(f"There is no decisions journal {journal}: there is nothing to apply.")
    table = journal if isinstance(journal, pd.DataFrame) else decisions(journal)
    return table.drop_duplicates("sha256", keep="last").set_index("sha256")["decision"]


def _up_to_date(table: pd.DataFrame, decided: pd.Series, data_dir: Path, state: "_State") -> pd.DataFrame:
    """The rows with `decision`, current `label`, and `path` as it is after earlier moves; `scanned` as it was."""
    rows = table[["path", "given_label", "split", "sha256", "problem"]].reset_index(drop=True)
    rows["scanned"] = rows["path"]
    rows["decision"] = rows["sha256"].where(rows["sha256"] != "").map(decided).astype(object).fillna("")
    moved = {_table_path(op["src"], data_dir): op["dst"] for op in state.placed.values() if op["how"] == "move"}
    rows["label"] = dataset.current_labels(table, decided.rename("decision").rename_axis("sha256").reset_index()).array
    rows["path"] = [_follow(path, moved, data_dir) for path in rows["path"]] if moved else rows["path"]
    return rows.drop_duplicates("path", ignore_index=True)


def _follow(path: str, moved: Mapping[str, Path], data_dir: Path) -> str:
    seen = set()
    while path in moved and path not in seen and not os.path.lexists(dataset.file_path(data_dir, path)):
        seen.add(path)
        path = _table_path(moved[path], data_dir)
    return path


def _plan_moves(rows: pd.DataFrame, data_dir: Path, goal: Path) -> pd.DataFrame:
    depth, dropped = _depth(rows["scanned"]), _table_path(goal, data_dir) + "/"
    labels = zip((path.split("/") for path in rows["scanned"]), rows["given_label"], strict=True)
    class_of = {p[depth]: label for p, label in labels if len(p) > depth + 1}
    folder_of = {label: folder for folder, label in class_of.items()} | {f: f for f, c in class_of.items() if f == c}
    taken: set[str] = set()
    steps = []
    for row in rows.itertuples():
        p = row.path.split("/")
        here = p[depth] if len(p) > depth + 1 else ""
        why = _why_not_moved(row, class_of.get(here, here))
        if not why and row.path.startswith(dropped):
            why = "dropped before: roll_back brings it back"
        if why:
            steps.append(("unchanged", "", why))
            continue
        folder = folder_of.get(row.decision, row.decision)
        wanted = dropped + row.path if row.decision == "drop" else "/".join([*p[:depth], folder, *p[depth + 1 :]])
        target, note = _free_name(wanted, here, data_dir, taken)
        if row.decision != "drop" and folder not in class_of:
            note += "; a new folder"
        action = "drop" if row.decision == "drop" else "move"
        steps.append((action, target, f"decided: {row.decision}{note}"))
    return _as_plan(rows, steps)


def _why_not_moved(row: Any, label: str) -> str:
    """Why a file that lies in the folder of `label` stays there, "" if it is to move."""
    if row.decision in _STAYS:
        return row.problem or _STAYS[row.decision]
    if row.decision == "drop":
        return row.problem if row.problem == "screened" else ""
    if row.problem or row.decision == label:
        return row.problem or "lies in the folder of its class"
    return "" if _is_folder_name(row.decision) else f"{row.decision!r} cannot be the name of a class folder"


def _plan_export(rows: pd.DataFrame, data_dir: Path, goal: Path, mode: str, state: "_State") -> pd.DataFrame:
    depth, has_splits = _depth(rows["scanned"]), bool(rows["split"].ne("").any())
    root = _table_path(goal, data_dir)
    reasons = [_why_not_exported(row, has_splits) for row in rows.itertuples()]
    folders = ["/".join([root, *[row.split] * has_splits, str(row.label)]) for row in rows.itertuples()]
    placed = {_table_path(op["src"], data_dir): _table_path(op["dst"], data_dir) for op in state.placed.values()}
    wanted = {p: folder for p, folder, why in zip(rows["path"], folders, reasons, strict=True) if not why}
    _check_export(goal, placed, wanted, state)
    taken, steps = set(placed.values()), []
    for row, folder, why in zip(rows.itertuples(), folders, reasons, strict=True):
        if why or row.path in placed:
            steps.append(("unchanged", placed.get(row.path, ""), why or "exported before"))
            continue
        # one flat folder, as fastai takes the innermost one for the class, of names that TensorFlow can read
        p = row.path.split("/")
        name = "__".join(p[depth + 1 :]).replace("\\", "%")
        target, note = _free_name(f"{folder}/{name}", p[depth], data_dir, taken)
        if PurePosixPath(target).suffix.lower() not in _LISTED:
            note += "; image_dataset_from_directory does not list this suffix"
        steps.append((mode, target, f"label: {row.label}{note}"))
    return _as_plan(rows, steps)


def _why_not_exported(row: Any, has_splits: bool) -> str:
    if row.problem or row.decision in ("escalate", "drop"):
        return row.problem or _STAYS.get(row.decision, "decided: drop")
    if pd.isna(row.label) or (has_splits and not row.split):
        return "has no label" if pd.isna(row.label) else "has no split, others have"
    return "" if _is_folder_name(row.label) else f"{row.label!r} cannot be the name of a class folder"


def _check_export(goal: Path, placed: dict[str, str], wanted: dict[str, str], state: "_State") -> None:
    if goal.exists() and (not goal.is_dir() or set(goal.iterdir()) - set(state.folders)):
        raise ValueError(f"{goal} holds something else already. Give an out_dir that is empty or not there.")
    for path, target in placed.items():
        if wanted.get(path) != str(PurePosixPath(target).parent):
            raise ValueError(
                f"{goal} was exported with other labels: now {path} belongs into {wanted.get(path)}. "
                "Give another out_dir, or roll_back that export first."
            )


def _as_plan(rows: pd.DataFrame, steps: list[tuple[str, str, str]]) -> pd.DataFrame:
    plan = pd.DataFrame(steps, columns=["action", "target", "reason"], index=rows.index, dtype=str)
    return pd.concat([rows, plan], axis=1)[list(COLUMNS)]


def _depth(paths: pd.Series) -> int:
    """At which part of a path the class folder stands: 1 under splits, else 0; the rule of `dataset.scan`."""
    parts = [path.split("/", 2) for path in paths]
    return int(any(len(p) == 3 and p[0].lower() in dataset.SPLIT_FOLDERS for p in parts))


def _is_folder_name(label: str) -> bool:
    name = str(dataset.file_path(Path(), label))
    return label not in ("", ".", "..") and not scanning.is_skipped(name) and not {"/", os.sep} & {*name, *label}


def _free_name(wanted: str, origin: str, data_dir: Path, taken: set[str]) -> tuple[str, str]:
    """A name nobody has or will have → (target, what to say about it)."""
    path, target, n = PurePosixPath(wanted), wanted, 1
    while target in taken or os.path.lexists(dataset.file_path(data_dir, target)):
        number = f".{n}" if n > 1 else ""
        target = f"{path.parent}/{path.stem}.from-{origin}{number}{path.suffix}"
        n += 1
    taken.add(target)
    return target, "" if n == 1 else f"; {path.name} is taken"


def _table_path(path: Path, data_dir: Path) -> str:
    """As in the images table: relative to data_dir where it lies below, else absolute."""
    return dataset.table_path(str(path).removeprefix(f"{data_dir}{os.sep}"))


def _shown(path: Path | None) -> str:
    return dataset.table_path(str(path)) if path else ""


# --- doing it, one step at a time


def _carry_out(plan: pd.DataFrame, data_dir: Path, log: "_Log", state: "_State", progress: bool) -> pd.DataFrame:
    todo = plan.index[plan["action"] != "unchanged"]
    steps = []
    for row in plan.loc[todo].itertuples():
        how = "move" if row.action == "drop" else row.action
        src, dst = dataset.file_path(data_dir, row.path), dataset.file_path(data_dir, row.target)
        steps.append({"id": uuid.uuid4().hex, "how": how, "src": src, "dst": dst, "sha256": row.sha256})
    ends = {folder for op in steps for end in ("src", "dst") for folder in op[end].parents}
    changed = [folder for folder in ends - set(state.times) if folder.is_relative_to(data_dir) and folder.is_dir()]
    if changed:
        _append(log, {"times": {folder: folder.stat().st_mtime_ns for folder in changed}})
    reasons = _do_all(steps, log, progress, "apply")
    plan["done"] = False
    plan.loc[todo, "done"] = [not why for why in reasons]
    plan.loc[todo, "reason"] = [why or old for why, old in zip(reasons, plan.loc[todo, "reason"], strict=True)]
    return plan


def _do_all(steps: list[dict], log: "_Log", progress: bool, name: str) -> list[str]:
    """Why each step was not done, "" if it was."""
    reasons: list[str] = []
    for op in tqdm(steps, disable=not progress, unit="file", desc=name):
        try:
            reasons.append(_do(op, log))
        except OSError as error:
            reasons.append(_sentence(error))
            if error.errno in _ENDS_ALL:
                reasons += [f"not reached: {reasons[-1]}"] * (len(steps) - len(reasons))
                break
    failed = [why for why in reasons if why]
    if failed:
        message = f"{len(failed)} of {len(steps)} files stay where they are, see `reason`. The first: {failed[0]}"
        warnings.warn(message, stacklevel=4)
    return reasons


def _do(op: dict, log: "_Log") -> str:
    """One step: check, log, act, log. Returns why not, "" if done; after an OSError nothing is half done."""
    why = _unfit(op)
    if why:
        return why
    if op["dst"]:
        _make_folders(log, op["dst"].parent)
    _append(log, op, sync=True)
    try:
        _act(op, log)
    except OSError as error:
        try:
            done = _settle(op, log, why=_sentence(error))
        except OSError as worse:  # no further step before this one is settled
            raise OSError(errno.EIO, _sentence(worse)) from error
        if not done:
            raise
    else:
        _append(log, {"done": op["id"]})
    return ""


def _unfit(op: dict) -> str:
    """Why this file may not be touched, "" if it is what was decided on; notes its inode, size and time in `op`."""
    src = op["src"]
    if op.get("leads_to"):
        led = src.is_symlink() and src.readlink() == op["leads_to"]
        return "" if led else "is not the link that was made"
    if op["how"] == "move" and src.is_symlink():
        return "is a link: move what it leads to, or put the file itself here"
    status = src.stat()
    if not stat.S_ISREG(status.st_mode):
        return "is no regular file"
    if _sha256(src) != op["sha256"]:
        return "its bytes are not those that were decided on: scan and decide again"
    op["was"] = _identity(status)
    op.setdefault("mtime_ns", status.st_mtime_ns)
    return ""


def _act(op: dict, log: "_Log") -> None:
    how, src, dst, part = op["how"], op["src"], op["dst"], _part(op)
    if how == "unlink":
        return src.unlink()
    if how == "link":
        return dst.symlink_to(src)
    if how == "move":
        try:
            return _rename(src, dst)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
    _copy(src, part, op)
    op["copied"] = _identity(part.lstat())
    _append(log, {"copied": op["copied"]}, sync=True)
    _rename(part, dst)
    if how == "move":
        src.unlink()
    return None


def _rename(src: Path, dst: Path) -> None:
    """Like Path.rename, but never over a file that is there."""
    try:
        dst.hardlink_to(src)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if os.path.lexists(dst):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(dst)) from None
        src.rename(dst)
        _sync_folder(dst.parent)
    else:
        _sync_folder(dst.parent)
        src.unlink()


def _copy(src: Path, part: Path, op: dict) -> None:
    with src.open("rb") as source, part.open("xb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
        target.flush()
        os.fsync(target.fileno())
    shutil.copystat(src, part)
    os.utime(part, ns=(part.stat().st_atime_ns, op["mtime_ns"]))
    if _sha256(part) != op["sha256"]:
        raise OSError(errno.EIO, "the copy differs from the original")


def _settle(op: dict, log: "_Log", *, why: str) -> bool:
    """Bring a step that was begun to one of its two ends: done, or as if never begun. Returns which."""
    done = _arrived(op)
    _part(op).unlink(missing_ok=True)
    if done and op["how"] == "move" and os.path.lexists(op["src"]):
        stays = "copied" in op and _identity(op["src"].lstat()) != op["was"]  # changed since it was copied
        try:
            if not stays:
                op["src"].unlink(missing_ok=True)
        except PermissionError:
            stays = True
        if stays:
            op["dst"].unlink()
            done = False
    _append(log, {"done": op["id"]} if done else {"failed": op["id"], "why": why})
    return done


def _arrived(op: dict) -> bool:
    """Whether what lies at `dst` is what this step put there."""
    how, src, dst = op["how"], op["src"], op["dst"]
    if how == "unlink":
        return not os.path.lexists(src)
    if not os.path.lexists(dst):
        return False
    if how == "link":
        return dst.is_symlink() and dst.readlink() == src
    there = dst.lstat()
    if "copied" in op:
        return _identity(there) == op["copied"]
    if how == "copy":
        return False
    return os.path.samestat(src.lstat(), there) if os.path.lexists(src) else there.st_ino == op["was"][0]


def _undoing(op: dict) -> dict:
    new = {"id": uuid.uuid4().hex, "undoes": op["id"], "src": op["dst"], "sha256": op["sha256"]}
    if op["how"] == "move":
        return new | {"how": "move", "dst": op["src"], "mtime_ns": op["mtime_ns"]}
    return new | {"how": "unlink", "dst": None, "leads_to": op["src"] if op["how"] == "link" else None}


def _part(op: dict) -> Path:
    """The temporary name beside the new one: nobody else has it, and scans skip it."""
    return (op["dst"] or op["src"]).with_name(f".{op['id']}.part")


def _identity(status: os.stat_result) -> list[int]:
    return [status.st_ino, status.st_size, status.st_mtime_ns]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _make_folders(log: "_Log", folder: Path) -> None:
    for missing in reversed([f for f in (folder, *folder.parents) if not os.path.lexists(f)]):
        _append(log, {"mkdir": missing})
        missing.mkdir()


def _sentence(error: OSError) -> str:
    return _SENTENCES.get(error.errno, error.strerror or str(error))


# --- the log


@dataclasses.dataclass
class _Log:
    fd: int
    folder: Path  # paths below it are written relative to it


@dataclasses.dataclass
class _State:
    """What a log amounts to: steps in force by id, the one under way, folders made, folder times before all."""

    placed: dict[str, dict] = dataclasses.field(default_factory=dict)
    pending: dict | None = None
    folders: list[Path] = dataclasses.field(default_factory=list)
    times: dict[Path, int] = dataclasses.field(default_factory=dict)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[_Log, _State]]:
    """The log, locked, ready for writing, and its state; a step that was under way is settled first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(f"{path}.lock", timeout=LOCK_SECONDS)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise TimeoutError(f"Another program is using {path}: wait until it is done.") from None
    with lock, contextlib.ExitStack() as closing:
        lines, size = _read(path)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
        closing.callback(os.close, fd)
        log = _Log(fd, path.parent.resolve())
        os.ftruncate(fd, size)  # a line that a kill cut short announced nothing that happened
        if not size:
            _append(log, _HEADER, sync=True)
            _sync_folder(log.folder)
        state = _replay(lines)
        if state.pending is not None:
            op = state.pending
            if _settle(op, log, why="interrupted"):
                _fold_done(state, op)
            state.pending = None
        yield log, state


def _read(path: Path) -> tuple[list[dict], int]:
    """The log's whole lines, and their size in bytes; nothing if there is no such file."""
    data = path.read_bytes() if path.exists() else b""
    size = data.rfind(b"\n") + 1
    header = json.dumps(_HEADER).encode() + b"\n"
    if not data.startswith(header) and not header.startswith(data):
        raise ValueError(f"{path} should be a move log. Received: {data[:60]!r}. Give another name for the log.")
    folder = path.parent.resolve()
    lines = [json.loads(line) for line in data[len(header) : size].splitlines()]
    for line in lines:
        for name in ("src", "dst", "mkdir", "rmdir", "leads_to"):
            if line.get(name):
                line[name] = folder / line[name]
        if "times" in line:
            line["times"] = {folder / name: mtime_ns for name, mtime_ns in line["times"].items()}
    return lines, size


def _append(log: _Log, line: Mapping[str, Any], *, sync: bool = False) -> None:
    data = (json.dumps(_written(line, log.folder)) + "\n").encode()
    size = os.fstat(log.fd).st_size
    try:
        while data:
            data = data[os.write(log.fd, data) :]
        if sync:
            os.fsync(log.fd)
    except OSError as error:
        os.ftruncate(log.fd, size)  # a full disk must not leave half a line
        raise OSError(error.errno, f"The move log cannot be written: {_sentence(error)}") from error


def _written(value: Any, folder: Path) -> Any:
    """Paths as text: relative to the log's folder where they lie below, so both can be moved together."""
    if isinstance(value, Mapping):
        return {str(_written(key, folder)): _written(entry, folder) for key, entry in value.items()}
    if isinstance(value, Path):
        return str(value.relative_to(folder) if value.is_relative_to(folder) else value)
    return value


def _replay(lines: list[dict]) -> _State:
    state = _State()
    for line in lines:
        if "how" in line:
            state.pending = line
        elif "copied" in line:
            state.pending["copied"] = line["copied"]
        elif "done" in line:
            _fold_done(state, state.pending)
            state.pending = None
        elif "failed" in line:
            state.pending = None
        elif "mkdir" in line:
            state.folders.append(line["mkdir"])
        elif "rmdir" in line:
            state.folders.remove(line["rmdir"])
        elif "times" in line:
            state.times = line["times"] | state.times
        elif "restored" in line:
            state.times = {}
    return state


def _fold_done(state: _State, op: dict) -> None:
    if "undoes" in op:
        state.placed.pop(op["undoes"], None)
    else:
        state.placed[op["id"]] = op


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
