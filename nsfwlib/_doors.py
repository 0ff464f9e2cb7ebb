"""The door of a room: its public names, loaded when they are first used."""

import re
from collections.abc import Callable
from importlib.metadata import requires
from typing import Any

import lazy_loader


def door(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a room, as the stub `__init__.pyi` beside its `__init__.py` lists them.

    Args:
        package: the room's `__name__`.
        file: the room's `__file__`.
    """
    load, names, public = lazy_loader.attach_stub(package, file)

    def load_or_advise(name: str) -> Any:
        try:
            return load(name)
        except ModuleNotFoundError as error:
            line = install_line(error.name or "")
            advice = f" Run: {line}" if line else ""
            raise ModuleNotFoundError(f"{package}.{name}: {error}.{advice}", name=error.name) from error

    return load_or_advise, names, public


def install_line(module: str) -> str:
    """The command that installs the extra which brings `module`; "" if none does."""
    name = module.partition(".")[0].replace("_", "-")
    for line in requires("nsfwlib") or ():
        if found := re.match(rf"{re.escape(name)}(?![\w-]).*extra == ['\"](\w+)['\"]", line):
            return f"pip install 'nsfwlib[{found[1]}]'"
    return ""
