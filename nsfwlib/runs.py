"""What does a run leave behind? Artefacts written whole, and a record of what made them."""

import ast
import hashlib
import itertools
import json
import os
import platform
import re
import time
import traceback
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from nsfwlib.files import file_hash, with_way_out, writable_folder, write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PACKAGES = ("nsfwlib", "tensorflow", "keras", "numpy", "pandas", "scikit-learn", "pillow")


def open_run(run_dir: Path, *, inside: str = "figures") -> Path:
    """The run folder, made if need be, with a folder `inside` it; a PermissionError if one cannot be written."""
    run_dir = writable_folder(run_dir, "run_dir")
    writable_folder(run_dir / inside, "run_dir")
    return run_dir


def journal_path(data_dir: Path, journal_file: str = "") -> Path:
    """The decisions journal: `journal_file`, or `<data_dir>_decisions.csv` beside the data, which is read only.

    However the folder is spelled, it has one journal; that beside a link to it, where there is such a one already. It
    is a ValueError if there are both.
    """
    if journal_file:
        return Path(journal_file)
    beside, other = (
        path.parent / f"{path.name}_decisions.csv" for path in (Path(data_dir).resolve(), Path(data_dir).absolute())
    )
    if not other.exists() or (beside.exists() and other.samefile(beside)):
        return beside
    if beside.exists():
        raise ValueError(
            f"One folder must have one journal. Received: {beside} and {other}. Name that which holds as journal_file, "
            "or move the lines of one to the end of the other and delete it."
        )
    return other


def read_table(run_dir: Path, name: str, *, made_by: str) -> pd.DataFrame:
    """`<run_dir>/<name>`, a parquet table; if it is not there, a FileNotFoundError says that `made_by` writes it."""
    return pd.read_parquet(_made(Path(run_dir) / name, made_by))


def _made(path: Path, made_by: str) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing. Run notebook {made_by} with the same run_dir first.")
    return path


def write_table(table: pd.DataFrame, path: Path) -> Path:
    """Write a table whole or not at all: `.parquet` keeps `attrs`, the home folder `~`; `.csv` neither nor index."""
    table = table.copy(deep=False)
    table.attrs = _spelled(table.attrs)
    with write_whole(path) as draft:
        table.to_csv(draft, index=False) if Path(path).suffix == ".csv" else table.to_parquet(draft)
    return Path(path)


def write_figure(drawn: "Axes | Figure", path: Path) -> None:
    """Write a figure, or that of `drawn` Axes, as a picture whole or not at all."""
    with write_whole(path) as draft:
        drawn.figure.savefig(draft, dpi=150, bbox_inches="tight")


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON record."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_json(content: Mapping[str, Any], path: Path) -> Path:
    """Write a JSON file whole or not at all; numpy scalars and paths are spelled as Python's, the home folder `~`."""
    with write_whole(path) as draft:
        draft.write_text(json.dumps(_spelled(content), indent=2) + "\n", encoding="utf-8")
    return Path(path)


def _spelled(content: Any) -> Any:
    """As JSON reads it back, and without the path of the home folder, which names a person."""
    own = Path(os.path.expanduser("~"))  # noqa: PTH111 - "~" it stays where the user has none
    homes = [re.escape(str(home)) for home in (own, own.resolve()) if len(own.parts) > 1]
    home = re.compile(rf"(?<![\w./-])({'|'.join(homes)})(?![\w.-])")

    def without_home(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: part if key.startswith("image/") else without_home(part) for key, part in value.items()}
        if isinstance(value, list):
            return [without_home(part) for part in value]
        return home.sub("~", value) if homes and isinstance(value, str) else value

    plain = json.dumps(content, default=lambda value: value.tolist() if hasattr(value, "tolist") else str(value))
    return without_home(json.loads(plain))


def fingerprint(images: pd.DataFrame, labels: pd.Series) -> str:
    """16 hex digits that change with the content of any image or with any label, and with nothing else."""
    lines = sorted(f"{sha256} {label}" for sha256, label in zip(images["sha256"], labels, strict=True))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def note_data(run_dir: Path, images: pd.DataFrame, data_dir: Path, *, class_map: Mapping[str, str]) -> None:
    """Name the data of a run in its `run.json`, under "about"; the record of a model of other pictures is cleared.

    A folder may grow, or be moved as it is. A ValueError says what else differs: other data, or another `class_map`.
    """
    path = Path(run_dir) / "run.json"
    record = read_json(path) if path.exists() else {}
    facts = {"data_dir": Path(data_dir).resolve(), "images": fingerprint(images, images["given_label"])}
    now = _spelled(facts | {"class_map": class_map})
    was = {**now, **record.get("about", {})}
    same = was["images"] == now["images"]
    for name in ("class_map", "data_dir"):
        if was[name] != now[name] and not (same and name == "data_dir"):
            raise _of_other_data(run_dir, name, was[name], now[name], "Name another run_dir for other data")
    write_json({**(record if same else {}), "about": {**was, **now}}, path)


def check_data(run_dir: Path, data_dir: Path | None = None, journal: Path | None = None) -> dict[str, Any]:
    """What a run is about: `data_dir`, `images` (their `fingerprint`), `class_map` and, once there is one, `journal`.

    Empty for a run of before there was such a record. It is a ValueError if the run is about another `data_dir`, or was
    reviewed in another journal.
    """
    path = Path(run_dir) / "run.json"
    record = read_json(path) if path.exists() else {}
    was, place = record.get("about", {}), _spelled(Path(data_dir or "").resolve())
    if data_dir is not None and was.get("data_dir", place) != place:
        way_out = "Name the run_dir of that data; if the folder was moved, run 01_explore_data on it first"
        raise _of_other_data(run_dir, "data_dir", was["data_dir"], place, way_out)
    if was and journal is not None:
        known, now = was.get("journal", ""), _spelled(Path(journal).absolute())
        if known and (not Path(journal).exists() or (known != now and Path(known).expanduser().exists())):
            way_out = "Put the decisions there, name theirs as journal_file, or choose another run_dir"
            slip = '; where the first was a slip, put "" in its place in run.json'
            raise _of_other_data(run_dir, "the journal", known, now, way_out + slip)
        if known != now and Path(journal).exists():
            was = {**was, "journal": now}
            write_json({**record, "about": was}, path)
    return was


def _of_other_data(run_dir: Path, what: str, was: Any, now: Any, way_out: str) -> ValueError:
    return ValueError(f"{run_dir} is a run with {what} {was}. Received: {now}. {way_out}.")


def describe(started: float, *, files: Sequence[Path] = (), **facts: Any) -> dict[str, Any]:
    """A record for `run.json`: `facts`, versions, seconds since `started`, and the sha256 of `files` beside it.

    It stands for no others: write it last, and clear it first.
    """
    return {
        **facts,
        "files": {path.name: file_hash(path) for path in files},
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(time.time() - started, 1),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


def is_current(path: Path, settings: Mapping[str, Any]) -> bool:
    """Whether what lies at `path` was made with these `settings`, and lies beside the files that it was written with.

    They stand under "settings" in a JSON record, or in the `attrs` of a table.
    """
    path = Path(path)
    if not path.exists():
        return False
    made = pd.read_parquet(path, columns=[]).attrs if path.suffix == ".parquet" else read_json(path)
    same = _spelled(made.get("settings")) == _spelled(settings)
    return same and not _replaced(path.parent, made)


def read_run(run_dir: Path) -> dict[str, Any]:
    """`run.json`, the record that 02_fine_tune writes last.

    A FileNotFoundError: 02 has not run on these pictures, or was stopped while it wrote. A ValueError: a file beside it
    is not the one that it was written with.
    """
    path = _made(Path(run_dir) / "run.json", "02_fine_tune")
    record = read_json(path)
    if "settings" not in record:
        raise FileNotFoundError(f"{path} names no model. Run notebook 02_fine_tune with the same run_dir first.")
    if replaced := _replaced(path.parent, record):
        raise ValueError(
            f"{path.parent / replaced[0]} is not the one that {path.name} was written with. Run notebook 02_fine_tune "
            "again with the same run_dir."
        )
    return record


def _replaced(folder: Path, record: Mapping[str, Any]) -> list[str]:
    """Names of the files of a record that are gone or have another content; records of older versions name none."""
    files = record.get("files", {}).items()
    return [name for name, sha256 in files if not (folder / name).exists() or file_hash(folder / name) != sha256]


def begin() -> None:
    """To be called in a notebook's first cell after its parameters: plain errors, no unknown parameter, `~` expanded.

    papermill only logs a parameter that the notebook does not have: here it is a ValueError that lists those there are.
    """
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:
        return
    # Foreseen errors carry a sentence; `%tb` still shows the whole traceback.
    shell.set_custom_exc((ValueError, OSError, RuntimeError, KeyboardInterrupt), _show)
    _check_injected(shell.user_ns.get("In", []))
    for name, value in list(shell.user_ns.items()):
        if isinstance(value, str) and value.startswith("~/") and not name.startswith("_"):
            shell.user_ns[name] = str(Path(value).expanduser())


def is_interactive() -> bool:
    """Whether a person can answer: the kernel is that of a page or an editor, and NSFWLIB_HEADLESS=1 is not set."""
    from IPython import get_ipython

    server = {"JPY_SESSION_NAME", "VSCODE_PID", "SCRIPT_NAME"} & set(os.environ)
    return os.environ.get("NSFWLIB_HEADLESS") != "1" and get_ipython() is not None and bool(server)


def _check_injected(cells: Sequence[str]) -> None:
    for before, cell in itertools.pairwise(cells):
        if not cell.startswith("# Parameters\n"):  # that papermill adds after the one tagged `parameters`
            continue
        known = _assigned(before)
        if unknown := [name for name in _assigned(cell) if name not in known]:
            raise ValueError(
                f"This notebook has no parameter {', '.join(unknown)}. Parameters it has: {', '.join(known)}."
            )


def _assigned(source: str) -> list[str]:
    nodes = ast.walk(ast.parse(source))
    return [node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]


def _show(shell: Any, kind: type, error: BaseException, trace: Any, tb_offset: int | None = None) -> list[str]:
    """A sentence for what this library raises, the usual traceback for everything else."""
    if kind is KeyboardInterrupt:
        error = kind("Stopped. What is finished was kept: run this cell again, and it goes on.")
        shell._showtraceback(kind, error, [str(error)])
        return [str(error)]
    *_, (last, _) = traceback.walk_tb(trace)
    told = with_way_out(error, "run_dir and cache_dir")
    shown = [f"{kind.__name__}: {told}"]
    if told == str(error) and not str(last.f_globals.get("__name__", "")).startswith("nsfwlib"):
        shown = shell.InteractiveTB.structured_traceback(kind, error, trace, tb_offset=tb_offset)
    shell._showtraceback(kind, error, shown)
    return shown
