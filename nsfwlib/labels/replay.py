"""What is in force in a journal as it grows? In memory, by the rule of `journal`, read on from where it ended."""

import itertools
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nsfwlib.labels.journal import IN_FORCE, LABELLING, MARKS, Said, in_order_of_time, lines_of, stands
from nsfwlib.labels.records import COLUMNS, is_whole, whole_bytes


class _Backwards(Exception):
    """Times run backwards: the lines have to be put in order first."""


class Replay:
    """What is in force in a journal as it grows, in memory; the rule is that of `in_force`.

    `decisions` maps sha256 to the decision in force, `audits` to an audit's blind answer, `looks` to this reviewer's
    own second look, `resolutions` to what ended a disagreement; `escalated` to the line that did it. `done` and
    `undone` are this reviewer's actions, last one last, so that undo and redo go on where an earlier sitting ended;
    `seconds` is the time looked at.

    Args:
        lines: of a journal, as from `read_journal`; or None, and `catch_up` reads them.
        path: the journal that `catch_up` follows.
        reviewer: whose actions and second looks these are.
    """

    def __init__(self, lines: pd.DataFrame | None = None, *, path: Path = Path(), reviewer: str = "") -> None:
        self.path, self.reviewer = Path(path), reviewer
        self._start_anew()
        if lines is not None:
            self.feed(lines.to_dict("records"))

    def _start_anew(self) -> None:
        self.decisions: dict[str, str] = {}
        self.audits: dict[str, str] = {}
        self.looks: dict[str, str] = {}
        self.resolutions: dict[str, str] = {}
        self.escalated: dict[str, Mapping[str, Any]] = {}
        self.done: list[str] = []
        self.undone: list[str] = []
        self.seconds = 0.0
        self._said: dict[str, tuple[Said, ...]] = {}  # by sha256
        self._contents: dict[str, tuple[str, ...]] = {}  # by action
        self._marks: dict[str, str] = {}  # the last one of each action
        self._escalations: dict[tuple[str, str], Mapping[str, Any]] = {}  # by sha256 and action
        self._seen: tuple[int, ...] = ()  # the file's inode, size and time when it was read last
        self._end, self._last = 0, b""  # up to which byte, and what stands before it
        self._time, self._delimiter = "", ","  # of the last line, of the file

    def catch_up(self) -> Collection[str]:
        """Read what was written to the journal since the last call; the sha256 whose decision may have changed.

        Raises:
            FileNotFoundError: the journal was there and is gone.
            ValueError: it is no journal any more; says which line.
        """
        try:
            status = self.path.stat()
        except FileNotFoundError:
            if not self._end:
                return ()
            raise FileNotFoundError(
                f"The journal {self.path} is gone, so nobody knows what was decided and escalated. Put it back."
            ) from None
        seen = (status.st_ino, status.st_size, status.st_mtime_ns)
        if seen == self._seen:
            return ()
        changed = self._read_on()
        if changed is None:
            fresh = Replay(path=self.path, reviewer=self.reviewer)
            fresh._read_all()  # where that fails, it fails again at the next call
            changed = {**self._said, **fresh._said}.keys()
            vars(self).update(vars(fresh))
        else:
            self._seen = seen
        return changed

    def _read_on(self) -> Collection[str] | None:
        """Take in the whole lines behind those that were read; None if more than that has changed."""
        if not self._end:
            return None
        with self.path.open("rb") as file:
            file.seek(self._end - len(self._last))
            before, data = file.read(len(self._last)), file.read()
        if before != self._last or not is_whole(data, self._delimiter):
            return None
        lines = list(lines_of(self.path, data, self._delimiter, header=False))
        times = [time for time in (self._time, *(line[0] for line in lines)) if time]
        if times != sorted(times):
            return None
        self._end, self._last = self._end + len(data), (self._last + data)[-256:]
        return self._feed(lines)

    def _read_all(self) -> None:
        data, delimiter, _ = whole_bytes(self.path)
        status = self.path.stat()
        try:
            self._feed(lines_of(self.path, data, delimiter), in_order=True)
        except _Backwards:
            self._start_anew()
            self._feed(in_order_of_time(self.path, list(lines_of(self.path, data, delimiter))))
        self._delimiter, self._end, self._last = delimiter, len(data), data[-256:]
        if status.st_size == len(data):
            self._seen = (status.st_ino, status.st_size, status.st_mtime_ns)

    def _feed(self, lines: Iterable[list[str]], *, in_order: bool = False) -> Collection[str]:
        return self.feed(self._dated(lines, in_order))

    def _dated(self, lines: Iterable[list[str]], in_order: bool) -> Iterator[Mapping[str, Any]]:
        for line in lines:
            if in_order and line[0] and line[0] < self._time:
                raise _Backwards
            self._time = line[0] or self._time
            yield dict(zip(COLUMNS, line, strict=True))

    def feed(self, lines: Iterable[Mapping[str, Any]]) -> Collection[str]:
        """Take in more lines; returns the sha256 whose decision may have changed."""
        actions = {}
        for action, together in itertools.groupby(lines, lambda line: line["action"]):
            contents = self._take(action, list(together))
            self._contents[action] = (*self._contents.get(action, ()), *contents)
            actions[action] = True
        changed = {sha256: True for action in actions for sha256 in self._contents[action]}
        for sha256 in changed:
            self._settle(sha256)
        return changed.keys()

    def _take(self, action: str, lines: Sequence[Mapping[str, Any]]) -> list[str]:
        """Note lines of one action; the contents they speak of."""
        contents = []
        for line in lines:
            kind, own = line["kind"], line["reviewer"] == self.reviewer
            if kind in MARKS:
                self._marks[action] = kind
            elif kind in LABELLING or (kind == "second" and own):  # nobody's second look is another's business
                sha256, decision = line["sha256"], sys.intern(line["decision"])
                self._said[sha256] = (*self._said.get(sha256, ()), (sys.intern(kind), action, decision))
                contents.append(sha256)
                if decision == "escalate":
                    self._escalations[sha256, action] = {name: line[name] for name in IN_FORCE}
            else:
                continue
            self.seconds += np.nan_to_num(float(line["seconds"] or 0))
            if own:
                self._note(kind, action)
        return contents

    def _settle(self, sha256: str) -> None:
        """Find anew what is in force on one content."""
        alone = ((self.audits, ("audit",)), (self.looks, ("second",)), (self.resolutions, ("resolution",)))
        for result, kinds in ((self.decisions, LABELLING), *alone):
            last = stands(self._said[sha256], kinds, self._marks)[-1:]
            result.pop(sha256, None)
            result.update((sha256, decision) for _, _, decision in last)
            if kinds == LABELLING:
                self.escalated.pop(sha256, None)
                escalated = [action for _, action, decision in last if decision == "escalate"]
                self.escalated.update((sha256, self._escalations[sha256, action]) for action in escalated)

    def _note(self, kind: str, action: str) -> None:
        """What this reviewer can undo and redo after this line."""
        if kind in MARKS:
            source, target = (self.done, self.undone) if kind == "undo" else (self.undone, self.done)
            if source[-1:] == [action]:  # nearly always, and there may be a million of them
                target.append(source.pop())
            elif action in source:
                source.remove(action)
                target.append(action)
        elif action not in self.done[-1:]:
            self.done.append(action)
            self.undone.clear()

    def concerned(self, action: str) -> tuple[str, ...]:
        """The contents that an action speaks of."""
        return self._contents.get(action, ())
