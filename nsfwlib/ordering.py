"""In which order were messages sent? JupyterLab may hand a later one to the kernel first.

From JupyterLab 4.4 and ipykernel 7 on, messages of widgets are handled by a thread of their own as soon as it has
started; what was sent before waits in the main thread, behind the cells that run there. The next ones overtake it.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

HOLD_SECONDS = 60  # after so long a missing message counts as lost


class InOrder:
    """Hands messages on one at a time, each after those that its sender numbered before it.

    A message has `sender`, and `seq` that counts from 1; one without a sender is handed on at once.
    """

    def __init__(self, handle: Callable[[dict[str, Any]], None]) -> None:
        self.handle = handle
        self._lock = threading.RLock()
        self._next: dict[str, int] = {}
        self._held: dict[str, dict[int, tuple[float, dict[str, Any]]]] = {}

    def take(self, message: dict[str, Any]) -> None:
        """Hand on `message`, or hold it until those before it have come."""
        sender, number = message.get("sender"), message.get("seq")
        with self._lock:
            if not isinstance(sender, str) or not isinstance(number, int):
                self.handle(message)
                return
            held = self._held.setdefault(sender, {})
            if number >= self._next.setdefault(sender, 1):
                held[number] = (time.monotonic(), message)
            self._hand_on(sender)

    def _hand_on(self, sender: str) -> None:
        held = self._held[sender]
        if held and time.monotonic() - min(since for since, _ in held.values()) > HOLD_SECONDS:
            self._next[sender] = min(held)
        while self._next[sender] in held:
            number = self._next[sender]
            self._next[sender] = number + 1
            self.handle(held.pop(number)[1])
