"""The door of a room: its public names, loaded when they are first used."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import requires
from typing import Any

import lazy_loader


def door(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a room, as its stub `__init__.pyi` lists them.

    Args:
        package: the room's `__name__`.
        file: the room's `__file__`; the stub lies beside it.
    """
    load, names, public = lazy_loader.attach_stub(package, file)

    def load_or_advise(name: str) -> Any:
        try:
            return load(name)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(f"{package}.{name}: {error}.{_advice(error.name)}", name=error.name) from error

    return load_or_advise, names, public


def _advice(module: str | None) -> str:
    """The install line of the extra that brings `module`, if one does."""
    name = (module or "").partition(".")[0].replace("_", "-")
    for line in requires("nsfwlib") or ():
        found = re.match(rf"{re.escape(name)}\b.*extra == ['\"](\w+)['\"]", line)
        if name and found:
            return f" pip install 'nsfwlib[{found[1]}]'"
    return ""
