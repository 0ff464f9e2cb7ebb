"""How does a notebook meet its user? Checked parameters, plain errors, and whether a person is there to answer."""

from __future__ import annotations

import ast
import itertools
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

INJECTED = "# Parameters\n"  # first line of the cell that papermill adds after the one tagged `parameters`


def begin() -> None:
    """To be called in a notebook's first cell after its parameters: plain errors, no unknown parameter.

    papermill only logs a parameter that the notebook does not have; a misspelt one would silently do nothing.
    Outside a notebook: no effect.

    Raises:
        ValueError: papermill was given a parameter that this notebook does not have; the message lists those it has.
    """
    shell = _shell()
    if shell is None:
        return
    # Foreseen errors carry a sentence; `%tb` still shows the whole traceback.
    shell.set_custom_exc((ValueError, OSError, RuntimeError), _show)
    _check_injected(shell.user_ns.get("In", []))


def is_interactive() -> bool:
    """Whether a person can answer: the kernel was started for JupyterLab, Notebook, Voila or VS Code.

    papermill and nbval start kernels by themselves. The environment variable NSFWLIB_HEADLESS=1 says no.
    """
    if os.environ.get("NSFWLIB_HEADLESS") == "1":
        return False
    return _shell() is not None and any(
        name in os.environ for name in ("JPY_SESSION_NAME", "VSCODE_PID", "SCRIPT_NAME")
    )


@contextmanager
def stderr_aside() -> Iterator[None]:
    """Keep what is written to standard error, C++ included, out of sight, unless there is an error."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as aside:
        kept = os.dup(2)
        os.dup2(aside.fileno(), 2)
        try:
            yield
        except BaseException:
            aside.seek(0)
            os.write(kept, aside.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _shell() -> Any:
    try:
        from IPython import get_ipython
    except ImportError:
        return None
    return get_ipython()


def _check_injected(cells: Sequence[str]) -> None:
    for before, cell in itertools.pairwise(cells):
        if cell.startswith(INJECTED):
            known = _assigned(before)
            unknown = [name for name in _assigned(cell) if name not in known]
            if unknown:
                raise ValueError(
                    f"This notebook has no parameter {', '.join(unknown)}. Parameters it has: {', '.join(known)}."
                )


def _assigned(source: str) -> list[str]:
    targets = []
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.AnnAssign):
            targets.append(statement.target)
        elif isinstance(statement, ast.Assign):
            targets += statement.targets
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _show(shell: Any, kind: type, error: BaseException, trace: Any, tb_offset: int | None = None) -> list[str]:
    """A sentence for what this library raises, the usual traceback for everything else."""
    last = trace
    while last.tb_next is not None:
        last = last.tb_next
    shown = [f"{kind.__name__}: {error}"]
    if not str(last.tb_frame.f_globals.get("__name__", "")).startswith("nsfwlib"):
        shown = shell.InteractiveTB.structured_traceback(kind, error, trace, tb_offset=tb_offset)
    shell._showtraceback(kind, error, shown)
    return shown
