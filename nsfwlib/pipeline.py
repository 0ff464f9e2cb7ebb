"""How is the whole path run without a person? The notebooks, in order, with papermill and checked parameters."""

import argparse
import ast
import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import papermill
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from papermill.iorw import LocalHandler, papermill_io
from traitlets.config import Config

from nsfwlib import runs
from nsfwlib.files import with_way_out

_CARRIED = Path(__file__).parent / "notebooks"  # in a wheel
NOTEBOOKS = _CARRIED if _CARRIED.is_dir() else Path(__file__).parents[1] / "notebooks"
_FOLDERS = ("data_dir", "run_dir", "cache_dir")
_BAR = re.compile(r"widget-view.* 0%\|.*\| 0/")
_COPY = "copy:"  # papermill's scheme of what `_Copies` writes
STEPS = ("01_explore_data", "02_fine_tune", "03_cleanse_labels", "04_analyse_errors")


def run_notebooks(
    notebooks: Sequence[Path | str], run_dir: Path, *, progress: bool = True, prepare: bool = False, **parameters: Any
) -> list[Path]:
    """Execute notebooks in order; returns their executed copies in `<run_dir>/notebooks/`.

    Args:
        notebooks: paths, or names of the kit's own such as "01_explore_data".
        prepare: execute nothing: write the copies, with these parameters in them, to be opened in JupyterLab. Copies
            that are there already stay as they are.
        parameters: each goes to those notebooks that have it. Paths (and strings called `…_dir` or `…_file`) are
            relative to the current folder. The notebooks' own folders (`../data`, `../runs`, `../cache`) lie beside
            them in a checkout, and in the current folder where the kit is installed from a wheel.

    Raises:
        FileNotFoundError: there is no such notebook.
        ValueError: no notebook has a parameter of that name.
        PapermillExecutionError: a cell failed. The executed copy shows where.
    """
    sources = [_find(notebook) for notebook in notebooks]
    known = {source: papermill.inspect_notebook(_plain(source)) for source in sources}
    names = sorted({name for those in known.values() for name in those})
    if unknown := sorted(set(parameters) - set(names)):
        asked = ", ".join(source.stem for source in sources)
        raise ValueError(f"No parameter {', '.join(unknown)} in {asked}. Those there are: {', '.join(names)}.")
    values = {name: _absolute(name, value) for name, value in {**parameters, "run_dir": Path(run_dir)}.items()}
    own = [known[source] for source in sources if source.parent == NOTEBOOKS]
    values = {name: _own_folder(about) for those in own for name, about in those.items() if name in _FOLDERS} | values
    copies = runs.open_run(Path(run_dir).expanduser(), inside="notebooks") / "notebooks"
    for source in sources:
        if prepare and (copies / source.name).exists():
            continue
        papermill.execute_notebook(
            _plain(source),
            _COPY + _plain((copies / source.name).absolute()),
            {name: value for name, value in values.items() if name in known[source]},
            cwd=str(source.parent),
            kernel_name="python3",
            prepare_only=prepare,
            iopub_timeout=120,  # seconds that a busy machine may take to pass on what a cell shows
            progress_bar={"desc": source.stem} if progress else False,
            store_widget_state=False,  # it would hold every thumbnail
            config=Config(KernelManager={} if os.name == "nt" else {"transport": "ipc"}),  # TCP is for all to read
        )
    return [copies / source.name for source in sources]


class _Copies(LocalHandler):
    """Executed copies as papermill saves them, cell by cell: whole, and without the home folder's path, always."""

    def write(self, buf: str, path: str) -> None:
        notebook = json.loads(buf)
        for cell in notebook["cells"]:  # without its widget's state a bar would stay at 0 % for ever
            if "outputs" in cell:
                cell["outputs"] = [output for output in cell["outputs"] if not _BAR.search(json.dumps(output))]
        runs.write_json(notebook, Path(path.removeprefix(_COPY)))


papermill_io.register(_COPY, _Copies())


def _find(notebook: Path | str) -> Path:
    path = Path(notebook)
    for candidate in (path, NOTEBOOKS / f"{path.name.removesuffix('.ipynb')}.ipynb"):
        if candidate.is_file():
            return candidate.absolute()
    there = ", ".join(sorted(p.stem for p in NOTEBOOKS.glob("*.ipynb")))
    raise FileNotFoundError(f"There is no notebook {notebook}. The kit's own are: {there}.")


def _plain(path: Path) -> str:
    """A path for papermill, which takes it for a template: `{` and `}` are doubled."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _own_folder(about: dict) -> str:
    """Where a notebook's own default such as "../data/demo" lies; from a wheel, in the current folder."""
    start = Path.cwd() / "notebooks" if NOTEBOOKS == _CARRIED else NOTEBOOKS
    return str((start / ast.literal_eval(about["default"])).resolve())


def _absolute(name: str, value: Any) -> Any:
    """Notebooks run in their own folder; what a caller names relative to theirs must say so."""
    is_path = isinstance(value, Path) or (isinstance(value, str) and value and name.endswith(("_dir", "_file")))
    is_file = isinstance(value, str) and os.sep in value and Path(value).expanduser().exists()
    return str(Path(value).expanduser().absolute()) if is_path or is_file else value


def summary(run_dir: Path) -> pd.Series:
    """The few numbers of a finished run that a person asks for first."""
    run_dir = Path(run_dir)
    metrics, cleansing = (runs.read_json(run_dir / f"{name}.json") for name in ("metrics", "cleansing"))
    table, split = pd.read_parquet(run_dir / "images.parquet", columns=["problem"]), metrics.get("measured_on", "test")
    heads = ((metrics[f"head_{when}"], metrics[f"head_{when}_log_loss"]) for when in ("before", "after"))
    before, after = (f"{accuracy:.3f} (log-loss {log_loss:.3f})" for accuracy, log_loss in heads)
    rows = {
        "images": f"{len(table):,}",
        "problems found": f"{table['problem'].ne('').sum():,} files left out",
        "label issues found": cleansing["found"],
        f"02's model, {split}, given labels": metrics["fine_tuned_given"],
        f"02's model, {split}, planted truth": metrics.get("fine_tuned_truth"),
        f"head on given labels, {split} ({metrics['test_labels']})": before,
        f"head on cleaned labels, {split} ({metrics['test_labels']})": after,
        "02's model, validation, given labels": metrics["validation"]["given labels"],
        "02's model, validation, cleaned labels": metrics["validation"]["corrected labels"],
        "figures": str(run_dir / "figures"),
    }
    return pd.Series(rows).dropna().map(lambda value: f"{value:.3f}" if isinstance(value, float) else str(value))


def _next(run_dir: Path, data_dir: Any) -> str:
    """What to do with the suspects of a run on one's own data, as a command; "" for the demo, which has no reviewer."""
    table = run_dir / "label_issues.parquet"
    shown = {"columns": ["path"], "filters": [("is_issue", "==", True), ("split", "!=", "test")]}
    if not data_dir or not table.exists() or not (count := len(pd.read_parquet(table, **shown))):
        return ""
    return (
        f"\n{count:,} labels are suspected, none is changed before a person says so. Look at them:\n"
        f"    make review DATA={shlex.quote(str(data_dir))} RUN={shlex.quote(str(run_dir))} REVIEWER=your-name\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m nsfwlib.pipeline`: every parameter of the notebooks is an option."""
    parser = argparse.ArgumentParser(
        prog="python -m nsfwlib.pipeline", description=main.__doc__, allow_abbrev=False, add_help=False
    )
    parser.add_argument("--notebooks", nargs="+", default=list(STEPS), metavar="NAME", help="default: %(default)s")
    parser.add_argument("--prepare", action="store_true", help="execute nothing: write copies for JupyterLab")
    named, _ = parser.parse_known_args(arguments)
    known: dict[str, dict] = {}
    try:
        for notebook in named.notebooks:
            known = papermill.inspect_notebook(_plain(_find(notebook))) | known
        known.setdefault("run_dir", papermill.inspect_notebook(_plain(_find(STEPS[0])))["run_dir"])
    except FileNotFoundError as error:
        parser.error(str(error))
    parser.add_argument("-h", "--help", action="help", help="show this, with the parameters of these notebooks")
    for name, about in known.items():
        text = f"{about['help']} (default: {about['default']})".replace("%", "%%")
        option = {"dest": name, "type": partial(_read_as, about["default"]), "help": text, "metavar": "VALUE"}
        parser.add_argument(*dict.fromkeys([f"--{name.replace('_', '-')}", f"--{name}"]), **option)
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        parser.error(f"no parameter {' '.join(unknown)}; those there are: " + ", ".join(f"--{n}" for n in known))
    values = {name: value for name, value in vars(options).items() if name in known and value is not None}
    run_dir = Path(values.pop("run_dir", _own_folder(known["run_dir"]))).expanduser().resolve()
    try:
        run_notebooks(options.notebooks, run_dir, prepare=options.prepare, **values)
    except (PapermillExecutionError, DeadKernelError) as error:
        killed = "The kernel was killed, most often for want of memory. What is finished was kept: run it again."
        said = killed if isinstance(error, DeadKernelError) else f"{error.ename}: {error.evalue}"
        sys.stderr.write(f"\n{said}\nThe executed copy in {run_dir / 'notebooks'} shows where.\n")
        return 1
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{with_way_out(error, str(run_dir))}\n")
        return 2
    if not options.prepare and STEPS[-1] in (Path(name).stem for name in options.notebooks):  # else of another call
        sys.stdout.write(f"\n{summary(run_dir).to_string()}\n{_next(run_dir, values.get('data_dir'))}")
    return 0


def _read_as(default: str, text: str) -> Any:
    """A parameter as it is read: text where a notebook's own value is text, else a Python literal such as `[1, 2]`."""
    try:
        return text if isinstance(ast.literal_eval(default), str) else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        raise argparse.ArgumentTypeError(f"expected a value like {default}. Received: {text!r}.") from None


if __name__ == "__main__":
    sys.exit(main())
