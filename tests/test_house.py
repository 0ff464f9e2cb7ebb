"""The house: which room may import which, and what its door shows."""

import ast
import importlib
import inspect
import pickle
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import nsfwlib

HOME = Path(nsfwlib.__file__).parent
# From the cellar to the roof: a room imports those of earlier lines only. Rooms of one line do not know each other.
STOREYS = (
    {"_doors", "_tensorflow", "files", "runs", "plots", "demo"},
    {"data"},
    {"labels", "model"},
    {"train", "evaluate", "score", "export"},
    {"review"},
    {"pipeline"},
)
STOREY = {name: number for number, names in enumerate(STOREYS) for name in names}
ROOMS = sorted(path.name for path in HOME.iterdir() if (path / "__init__.py").exists())
DOORS = [(room, name) for room in ROOMS for name in importlib.import_module(f"nsfwlib.{room}").__all__]


def imports():
    """(file, its room, its module, what it imports from, the names) of every import of the library, lazy ones too."""
    for file in sorted(HOME.rglob("*.py")):
        room, *module = file.relative_to(HOME).with_suffix("").parts
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "nsfwlib":
                names = [alias.name for alias in node.names]
                if node.module == "nsfwlib":
                    for name in names:
                        yield file, room, "".join(module), (name,), []
                else:
                    yield file, room, "".join(module), tuple(node.module.split(".")[1:]), names


def test_the_rooms_are_those_of_the_plan():
    assert set(ROOMS) == {"data", "demo", "evaluate", "export", "labels", "model", "plots", "review", "score", "train"}
    modules = {path.stem for path in HOME.glob("*.py")} - {"__init__", "_doors", "_tensorflow"}
    assert modules == {"files", "runs", "pipeline"}


def test_imports_run_one_way():
    wrong = [
        f"{file.relative_to(HOME)} imports {target[0]}"
        for file, room, _, target, _ in imports()
        if room not in ("__init__", target[0]) and STOREY[room] <= STOREY[target[0]]
        if not (STOREY[room] == STOREY[target[0]] == 0 and target[0] in ("_doors", "_tensorflow", "files", "runs"))
    ]
    assert not wrong


def test_modules_of_a_room_form_no_circle():
    arrows = {}
    for _, room, module, target, _ in imports():
        if target[0] == room and len(target) > 1:
            arrows.setdefault((room, module), set()).add((room, target[1]))

    for start in arrows:
        for following in arrows[start]:
            seen, pending = set(), [following]
            while pending:
                place = pending.pop()
                if place not in seen:
                    seen.add(place)
                    pending += arrows.get(place, ())
            assert start not in seen, f"a circle through {'.'.join(start)}"


def test_one_room_knows_another_by_its_door_alone():
    wrong = []
    for file, room, _, target, names in imports():
        if target[0] == room or target[0] not in ROOMS:
            wrong += [f"{file.name}: {n}" for n in names if target[0] == "files" and n.startswith("_")]
            continue
        public = importlib.import_module(f"nsfwlib.{target[0]}").__all__
        wrong += [f"{file.relative_to(HOME)} goes past the door of {target[0]}"] * (len(target) > 1)
        wrong += [f"{file.relative_to(HOME)}: {target[0]}.{name}" for name in names if name not in public]
    assert not wrong


@pytest.mark.parametrize("room", ROOMS)
def test_no_module_is_called_like_a_public_name_of_its_room(room):
    modules = {module.name for module in pkgutil.iter_modules([HOME / room])}
    assert not modules & set(importlib.import_module(f"nsfwlib.{room}").__all__)


@pytest.mark.parametrize("room", ROOMS)
def test_the_table_of_contents_lists_what_the_door_shows(room):
    door = importlib.import_module(f"nsfwlib.{room}")
    lines = inspect.getdoc(door).partition("\n\n")[2].splitlines()
    listed = [line.split()[0] for line in lines if line and not line.startswith(" ")]
    assert sorted(listed) == sorted(door.__all__)
    assert all(len(line.split()) > 2 for line in lines if line), "each name says what it is"


def test_a_function_that_names_a_room_travels_to_other_processes():
    from joblib.externals.loky.backend.reduction import dumps

    scope = {"plots": importlib.import_module("nsfwlib.plots"), "__name__": "__main__"}
    exec("def names(): return plots.__all__", scope)
    assert pickle.loads(dumps(scope["names"]))() == scope["plots"].__all__


@pytest.mark.parametrize(("room", "name"), DOORS, ids=[".".join(pair) for pair in DOORS])
def test_every_public_name_opens_twice_and_says_what_it_takes_and_gives(room, name):
    door = importlib.import_module(f"nsfwlib.{room}")
    first = getattr(door, name)
    assert getattr(door, name) is first and name in dir(door)
    if inspect.isfunction(first):
        signature = inspect.signature(inspect.unwrap(first))
        missing = [p.name for p in signature.parameters.values() if p.annotation is inspect.Parameter.empty]
        assert not missing and signature.return_annotation is not inspect.Signature.empty, f"no type: {missing}"
    if inspect.isfunction(first) or inspect.isclass(first):
        assert inspect.getdoc(first), "no docstring"


def test_what_runs_no_network_starts_without_tensorflow():
    code = (
        "import sys; from nsfwlib import score, data, labels, review, evaluate, plots\n"
        "for room in (score, data, labels, review, evaluate, plots):\n"
        "    for name in room.__all__: getattr(room, name)\n"
        "heavy = sorted({m.partition('.')[0] for m in sys.modules} & {'tensorflow', 'keras', 'ray', 'openvino'})\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "start",
    [
        "from nsfwlib.score import __main__, run; from nsfwlib.model import runtime",
        "from nsfwlib.review import grid",
        "import nbformat",  # by plotly in each kernel; jsonschema from 4.25 on parses 38 grammars, with lark
    ],
)
def test_what_a_person_waits_for_loads_nothing_that_takes_a_second(start):
    code = (
        f"import sys; {start}\n"
        "sys.exit(', '.join({'scipy.stats', 'scipy.optimize', 'sklearn', 'matplotlib.pyplot', 'lark'} & {*sys.modules}) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_missing_part_says_how_to_install_it():
    from nsfwlib import _doors

    assert _doors.install_line("openvino") == "pip install 'nsfwlib[openvino]'"
    assert _doors.install_line("pillow_heif.misc") == "pip install 'nsfwlib[heic]'"
    assert _doors.install_line("nothing_of_ours") == ""
    code = (
        "import sys; sys.modules['anywidget'] = None; sys.modules['openvino'] = None\n"
        "from nsfwlib import review, score; score.score\n"
        "try: review.ReviewGrid\n"
        "except ModuleNotFoundError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("nsfwlib.review.ReviewGrid: ") and "anywidget" in done.stdout
