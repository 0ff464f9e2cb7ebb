"""How does a file move so that a kill at any moment loses nothing? One logged step at a time.

The move log has one JSON object a line. A step is in the log, and the log on disk, before anything happens:

| line | meaning |
|---|---|
| `{"id", "how", "src", "dst", "sha256", "mtime_ns", "undoes"}` | this is about to happen |
| `{"done": id}`, `{"failed": id, "why"}` | how it ended |
| `{"mkdir"}` | a folder is made for it |

One step is under way at a time; `_settle` ends one that was killed. Paths below the log's folder are relative to it.
"""

import contextlib
import errno
import json
import os
import shutil
import stat
import uuid
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from nsfwlib.files import file_hash
from nsfwlib.labels.records import append_whole, fsync_folder, locked

LOCK_SECONDS = 5
_HEADER = {"nsfwlib": "move log", "version": 1}
_ENDS_ALL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}  # the next file would fare no better
_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}
_FULL = "the disk is full: free some space and call again, what is done is in the log"
_SENTENCES = {
    errno.ENOTDIR: "a file lies where its folder should be: rename that file and call again",
    errno.ENOENT: "vanished, it is not where it was: scan again",
    errno.EEXIST: "something else has taken its new name by now: plan again",
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
}


class Log:
    """A move log: what its whole lines amount to, nothing if there is no such file, and while it is open, `fd`."""

    def __init__(self, path: Path) -> None:
        data = path.read_bytes() if path.exists() else b""
        header = json.dumps(_HEADER).encode() + b"\n"
        if not data.startswith(header) and not header.startswith(data):
            raise ValueError(f"{path} should be a move log. Received: {data[:60]!r}. Give another name for the log.")
        self.folder = path.parent.resolve()  # paths below it are written relative to it: both can be moved together
        self.size, self.fd = data.rfind(b"\n") + 1, -1  # bytes of its whole lines
        self.placed: dict[str, dict] = {}  # steps in force by id
        self.pending: dict | None = None  # the step under way
        self.folders: list[Path] = []  # made for steps
        for line in data[len(header) : self.size].splitlines():
            self._take(json.loads(line))

    def append(self, line: Mapping[str, Any], *, sync: bool = False) -> None:
        """Write one line, whole or not at all; with `sync` it is on disk when this returns."""
        text = json.dumps(line, default=lambda path: str(path).removeprefix(f"{self.folder}{os.sep}"))
        try:
            append_whole(self.fd, f"{text}\n".encode(), sync=sync)
        except OSError as error:
            raise OSError(error.errno, f"The move log cannot be written: {_sentence(error)}") from error
        self._take(line)

    def _take(self, line: Mapping[str, Any]) -> None:
        """What one more line changes; logs of earlier versions have other lines, too."""
        if "how" in line:
            self.pending = {**line, **{end: self.folder / line[end] for end in ("src", "dst") if line[end]}}
        elif "mkdir" in line:
            self.folders.append(self.folder / line["mkdir"])
        elif "done" in line or "failed" in line:
            op, self.pending = self.pending, None
            if "done" in line and "undoes" in op:
                self.placed.pop(op["undoes"], None)
            elif "done" in line:
                self.placed[op["id"]] = op


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Log]:
    """The log, locked and ready for writing; a step that was under way is settled first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path, LOCK_SECONDS), path.open("ab", buffering=0) as file:
        log = Log(path)
        log.fd = file.fileno()
        os.ftruncate(log.fd, log.size)  # a line that a kill cut short announced nothing that happened
        if not log.size:
            log.append(_HEADER, sync=True)
            fsync_folder(log.folder)
        if log.pending is not None:
            _settle(log, why="interrupted")
        yield log


def do_all(steps: list[dict], log: Log, progress: bool, name: str) -> list[str]:
    """Take these steps (how, src, dst, sha256) one after the other → why each was not done, "" if it was."""
    reasons: list[str] = []
    for op in tqdm(steps, disable=not progress, unit="file", desc=name):
        try:
            _do(op | {"id": uuid.uuid4().hex}, log)
            reasons.append("")
        except OSError as error:
            reasons.append(_sentence(error))
            if error.errno in _ENDS_ALL or log.pending is not None:  # a step that cannot be settled is the last one
                reasons += [f"not reached: {reasons[-1]}"] * (len(steps) - len(reasons))
                break
    if failed := [why for why in reasons if why]:
        message = f"{len(failed)} of {len(steps)} files stay where they are, see `reason`. The first: {failed[0]}"
        warnings.warn(message, stacklevel=3)
    return reasons


def _do(op: dict, log: Log) -> None:
    """One step: check, log, act, log. After an OSError nothing is half done, or the step is still `log.pending`."""
    src, dst = op["src"], op["dst"]
    status = src.lstat() if op["how"] == "move" else src.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(None, "is a link or no regular file: move what it leads to, or put the file itself here")
    if file_hash(src) != op["sha256"]:
        raise OSError(None, "its bytes are not those that were decided on: scan and decide again")
    if dst and os.path.lexists(dst):
        raise OSError(errno.EEXIST, "taken")
    for missing in [folder for folder in reversed(dst.parents if dst else ()) if not os.path.lexists(folder)]:
        log.append({"mkdir": missing})
        missing.mkdir()
    log.append({"mtime_ns": status.st_mtime_ns, **op}, sync=True)
    try:
        _act(log.pending)
    except OSError as error:
        if not _settle(log, why=_sentence(error)):
            raise
    else:
        log.append({"done": op["id"]})


def _act(op: dict) -> None:
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
    with src.open("rb") as source, part.open("xb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
        target.flush()
        os.fsync(target.fileno())
    shutil.copystat(src, part)
    os.utime(part, ns=(part.stat().st_atime_ns, op["mtime_ns"]))
    if file_hash(part) != op["sha256"]:
        raise OSError(errno.EIO, "the copy differs from the original")
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
            raise OSError(errno.EEXIST, "taken") from None
        src.rename(dst)
        fsync_folder(dst.parent)
    else:
        fsync_folder(dst.parent)
        src.unlink()


def _settle(log: Log, *, why: str) -> bool:
    """Bring the step that was begun to one of its two ends: done, or as if never begun. Returns which."""
    op, src, dst = log.pending, log.pending["src"], log.pending["dst"]
    if os.path.lexists(_part(op)):
        _part(op).unlink()
    # Its new name was free, so the same bytes there are its own; whatever somebody changed since is left where it is.
    arrived = bool(dst) and dst.is_file() and file_hash(dst) == op["sha256"]
    if op["how"] in ("copy", "link"):
        done = arrived
    else:
        done = not os.path.lexists(src) and os.path.lexists(dst or src.parent)
        if arrived and src.is_file() and file_hash(src) == op["sha256"]:
            dst.unlink()
    log.append({"done": op["id"]} if done else {"failed": op["id"], "why": why})
    return done


def undoing(op: dict) -> dict:
    """The step that takes `op` back."""
    how, dst = ("move", op["src"]) if op["how"] == "move" else ("unlink", None)
    return op | {"undoes": op["id"], "how": how, "src": op["dst"], "dst": dst}


def _part(op: dict) -> Path:
    """The temporary name beside the new one: nobody else has it, and scans skip it."""
    return (op["dst"] or op["src"]).with_name(f".{op['id']}.part")


def _sentence(error: OSError) -> str:
    return _SENTENCES.get(error.errno or 0, error.strerror or str(error))
