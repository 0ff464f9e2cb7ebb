import os
import subprocess
import sys

import pytest

from nsfwlib import _tensorflow, runs


def test_a_parameter_that_the_notebook_lacks_is_named_with_those_it_has():
    cells = ["", "a: int = 1\nb = 2", "# Parameters\na = 3\ntypo = 4\n", "print(a)"]
    with pytest.raises(ValueError, match=r"no parameter typo\. Parameters it has: a, b\."):
        runs._check_injected(cells)


def test_known_parameters_pass():
    runs._check_injected(["", "a: int = 1", "# Parameters\na = 3\n"])


def test_outside_a_kernel_nobody_can_answer(monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "notebook")
    runs.begin()
    assert not runs.is_interactive()


@pytest.mark.parametrize(("body", "shown"), [("", False), ("raise SystemExit(3)", True)])
def test_standard_error_is_kept_aside_unless_something_fails(body, shown):
    code = (
        "import os\nfrom nsfwlib._tensorflow import stderr_aside\n"
        f"with stderr_aside():\n    os.write(2, b'greeting')\n    {body}\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ("greeting" in done.stderr) == shown and (done.returncode == 3) == shown


def test_standard_error_works_again_afterwards(capfd):
    with _tensorflow.stderr_aside():
        os.write(2, b"hidden")
    os.write(2, b"seen")
    assert capfd.readouterr().err == "seen"
