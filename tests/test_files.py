import errno
import subprocess
import sys

import pytest

from nsfwlib.files import write_whole


def test_a_file_appears_whole_and_nothing_lies_beside_it(tmp_path):
    with write_whole(tmp_path / "model.keras") as draft:
        draft.write_text("whole")
        assert draft.suffix == ".keras" and not (tmp_path / "model.keras").exists()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"model.keras": "whole"}


def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    (tmp_path / "a.json").write_text("old")
    with pytest.raises(OSError, match="disk full"), write_whole(tmp_path / "a.json") as draft:
        draft.write_text("half")
        raise OSError("disk full")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.json": "old"}


def test_a_file_for_which_there_is_no_space_is_named_with_a_way_out(tmp_path):
    (tmp_path / "t.parquet").write_text("old")
    code = (
        "import resource, sys, numpy as np, pandas as pd; from nsfwlib import runs\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "try: runs.write_table(pd.DataFrame({'a': np.random.rand(100_000)}), sys.argv[1])\n"
        "except OSError as error: print(error.errno, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "t.parquet"], capture_output=True, text=True)
    assert f"{tmp_path}/t.parquet could not be written (File too large) and is as it was. Free space" in done.stdout
    assert done.stdout.startswith(f"{errno.EFBIG} /") and [p.name for p in tmp_path.iterdir()] == ["t.parquet"]
    assert (tmp_path / "t.parquet").read_text() == "old"


def test_two_writers_of_one_file_do_not_break_one_another(tmp_path):
    with write_whole(tmp_path / "a") as first, write_whole(tmp_path / "a") as second:
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "a").read_text() == "first"  # whoever ends last


def test_processes_that_write_one_file_leave_one_whole_file(tmp_path):
    code = (
        "import sys; from nsfwlib.files import write_whole\n"
        "for i in range(100):\n"
        "    with write_whole(sys.argv[1]) as draft: draft.write_text(sys.argv[2] * 100_000)\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, tmp_path / "a", letter]) for letter in "xyz"]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0, 0]
    text = (tmp_path / "a").read_text()
    assert text == text[0] * 100_000 and list(tmp_path.iterdir()) == [tmp_path / "a"]
