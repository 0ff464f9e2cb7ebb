"""The door of a room: its public names, loaded when they are first used."""

import ast
import re
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import requires
from pathlib import Path
from types import ModuleType
from typing import Any

import lazy_loader


class _Room(ModuleType):
    @property
    def __doc__(self) -> str:  # type: ignore[override]
        """What is said of the room, then by modules the first line of each public name's docstring; none is loaded."""
        home, lines = Path(str(self.__file__)).parent, [(self.__dict__["__doc__"] or "").rstrip("\n"), ""]
        for part in ast.parse((home / "__init__.pyi").read_text(encoding="utf-8")).body:
            if isinstance(part, ast.ImportFrom):
                module = ast.parse((home / f"{part.module}.py").read_text(encoding="utf-8"))
                nodes = [node for node in module.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
                first = {node.name: str(ast.get_docstring(node)).splitlines()[0].rstrip(".:") for node in nodes}
                lines.append(f"  {part.module}: {str(ast.get_docstring(module)).splitlines()[0]}")
                lines += [f"{name.name:22}{first[name.name]}" for name in part.names if name.name in first]
        return "\n".join(lines)

    def __reduce__(self) -> tuple[Callable[[str], ModuleType], tuple[str]]:
        return import_module, (self.__name__,)  # else a function of a notebook could not be sent to workers


def door(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of the room with this `__name__` and `__file__`, as its stub lists them.

    Its docstring, which `help` shows, gets a table of contents.
    """
    load, names, public = lazy_loader.attach_stub(package, file)
    sys.modules[package].__class__ = _Room

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
