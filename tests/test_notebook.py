import os
import shutil
import subprocess
import sys

import nbformat
import numpy as np
import pytest
from PIL import Image

from nsfwlib import _tensorflow, pipeline, runs


def test_a_parameter_that_the_notebook_lacks_is_named_with_those_it_has():
    cells = ["", "a: int = 1\nb = 2", "# Parameters\na = 3\ntypo = 4\n", "print(a)"]
    with pytest.raises(ValueError, match=r"no parameter typo\. Parameters it has: a, b\."):
        runs._check_injected(cells)


def test_known_parameters_pass():
    runs._check_injected(["", "a: int = 1", "# Parameters\na = 3\n"])


def test_notebook_01_shows_what_the_split_adds_to_the_warnings_of_the_scan(tmp_path):
    for i, place in enumerate(["train/a", "train/a", "train/b", "train/b", "test/a", "test/b"]):
        path = tmp_path / "data" / place / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        blocks = np.random.default_rng(i).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(blocks).resize((64, 64)).save(path)
    shutil.copy(path, tmp_path / "data" / "train" / "b")
    (tmp_path / "data" / "train" / "c").mkdir()
    pipeline.run_notebooks(
        ["01_explore_data"], tmp_path / "run", progress=False,
        data_dir=tmp_path / "data", cache_dir=tmp_path / "cache", blocks=[],
    )  # fmt: skip
    cells = nbformat.read(tmp_path / "run" / "notebooks" / "01_explore_data.ipynb", 4).cells
    shown = [
        output["data"]["text/plain"]
        for cell in cells
        for output in cell.get("outputs", [])
        if "warnings_of(table)" in cell.source and output.output_type == "display_data"
    ]
    assert ["empty class" in text for text in shown] == [True, False]
    assert ["val drawn from train" in text and "leaks between splits" in text for text in shown] == [False, True]


def test_an_interrupted_cell_says_in_one_line_that_it_goes_on():
    code = (
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance(colors='nocolor')\n"
        "shell.run_cell('from nsfwlib import runs; runs.begin()')\n"
        "assert not shell.run_cell('raise KeyboardInterrupt').success"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1].startswith("Stopped.") and "Traceback" not in done.stdout, done.stderr


def test_outside_a_kernel_nobody_can_answer(monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "notebook")
    runs.begin()
    assert not runs.is_interactive()


@pytest.mark.parametrize(("body", "shown"), [("", False), ("raise SystemExit(3)", True)])
def test_standard_error_is_kept_aside_unless_something_fails(body, shown):
    code = (
        "import os, sys\nsys.modules.update(keras=sys, tensorflow=sys)  # not needed here, and slow to load\n"
        "from nsfwlib._tensorflow import stderr_aside\n"
        f"with stderr_aside():\n    os.write(2, b'greeting')\n    {body}\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ("greeting" in done.stderr) == shown and (done.returncode == 3) == shown


def test_standard_error_works_again_afterwards(capfd):
    with _tensorflow.stderr_aside():
        os.write(2, b"hidden")
    os.write(2, b"seen")
    assert capfd.readouterr().err == "seen"
