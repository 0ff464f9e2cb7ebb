import ast
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())
PIP_SECTION = ENVIRONMENT["dependencies"][-1]["pip"]


def test_the_library_imports_in_under_a_second_and_without_tensorflow():
    code = (
        "import time, sys; start = time.perf_counter(); import nsfwlib; took = time.process_time();"
        "from nsfwlib import data, evaluate, labels, plots, review, score;"
        "[getattr(room, name) for room in (data, evaluate, labels, plots, review, score) for name in room.__all__];"
        "print(took, 'tensorflow' in sys.modules or 'keras' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    took, heavy = done.stdout.split()
    assert float(took) < 1 and heavy == "False"


@pytest.mark.parametrize("module", ["pipeline", "score"])
def test_each_command_answers_from_the_shell(module):
    done = subprocess.run([sys.executable, "-m", f"nsfwlib.{module}", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and f"python -m nsfwlib.{module}" in done.stdout, done.stderr


def test_everything_that_is_imported_is_declared():
    notebooks = [json.loads(path.read_text())["cells"] for path in (ROOT / "notebooks").glob("*.ipynb")]
    sources = ["".join(cell["source"]) for cells in notebooks for cell in cells if cell["cell_type"] == "code"]
    sources += [path.read_text() for path in (ROOT / "nsfwlib").rglob("*.py")]
    nodes = [node for source in sources for node in ast.walk(ast.parse(source))]
    names = [name.name for node in nodes if isinstance(node, ast.Import) for name in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    extras = [item for items in PROJECT["optional-dependencies"].values() for item in items]
    declared = {re.match(r"[\w.-]+", item)[0].lower() for item in [*PROJECT["dependencies"], *extras, "nsfwlib"]}
    homes = packages_distributions()
    imported = {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names)
    brought_by = {name: {home.lower().replace("_", "-") for home in homes.get(name, [name])} for name in imported}
    assert not [name for name in imported if not declared & brought_by[name]]


def test_every_dependency_has_a_lower_bound_and_a_pin():
    extras = [item for items in PROJECT["optional-dependencies"].values() for item in items]
    pinned = re.findall(r"^([A-Za-z0-9._-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    for requirement in [*PROJECT["dependencies"], *extras]:
        name, bound = re.match(r"([A-Za-z0-9._-]+)(?:\[[\w-]+\])?(>=[\d.]+)?", requirement).groups()
        assert bound, f"{requirement} has no lower bound"
        assert name.lower().replace("_", "-") in pinned, f"{name} is not pinned in constraints.txt"


def test_the_conda_environment_takes_the_same_pins_and_extras_that_exist():
    assert set(ENVIRONMENT) == {"name", "channels", "dependencies"}
    assert [d for d in ENVIRONMENT["dependencies"] if isinstance(d, str)][-1] == "pip"
    assert PIP_SECTION[0] == "-c constraints.txt"
    extras = re.fullmatch(r"-e \.\[([\w,]+)\]", PIP_SECTION[1]).group(1).split(",")
    assert set(extras) <= set(PROJECT["optional-dependencies"])


def test_a_wheel_carries_every_room_and_the_notebooks():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    rooms = {f"nsfwlib.{path.parent.name}" for path in (ROOT / "nsfwlib").glob("*/__init__.py")}
    assert set(setuptools["packages"]) == {"nsfwlib", "nsfwlib.notebooks", "nsfwlib._art", *rooms}
    kinds = {
        path.suffix for path in (ROOT / "nsfwlib").rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }
    assert kinds - {".py", ""} <= {Path(pattern).suffix or ".typed" for pattern in setuptools["package-data"]["*"]}


@pytest.mark.full
def test_a_wheel_works_outside_the_repository(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "NSFWLIB_HEADLESS": "1"}
    here = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
    for command in ("pipeline", "score"):
        done = subprocess.run([sys.executable, "-m", f"nsfwlib.{command}", "--help"], **here)
        assert done.returncode == 0 and "usage" in done.stdout, done.stderr
    walk = ["--notebooks", "01_explore_data", "--demo-images", "8", "--blocks", "[]"]
    done = subprocess.run([sys.executable, "-m", "nsfwlib.pipeline", *walk], **here)
    assert done.returncode == 0, done.stderr
    assert {p.name for p in tmp_path.iterdir()} == {wheel.name, "site", "data", "runs", "cache"}
    assert (tmp_path / "runs" / "demo" / "images.parquet").exists()


@pytest.mark.full
def test_the_pip_section_of_the_conda_environment_resolves():
    arguments = [word for line in PIP_SECTION for word in line.split()]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--dry-run", "-q", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr


def test_no_registry_address_or_machine_path_is_pinned():
    for name in ("constraints.txt", "environment.yml", "pyproject.toml"):
        text = (ROOT / name).read_text()
        assert not re.search(r"https?://|file:|/home/|/root/", text), name
