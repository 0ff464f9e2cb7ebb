import csv
import errno
import os
import subprocess
import sys
import tempfile

import pandas as pd
import pytest

from nsfwlib.files import as_before, read_text_table, spreadsheet_safe, writable_folder, write_whole


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


def test_what_a_killed_writer_left_is_cleared_by_the_next_and_no_living_one_loses_its_draft(tmp_path):
    code = (
        "import os, signal, sys; from nsfwlib.files import write_whole\n"
        "with write_whole(sys.argv[1]) as draft: draft.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "a"]).returncode == -9
    (litter,) = tmp_path.iterdir()
    with write_whole(tmp_path / "b") as other:
        other.write_text("whole")
        with write_whole(tmp_path / "b") as draft:
            draft.write_text("draft")
        assert litter.exists() and other.exists(), "another file's, and a living writer's"
    with write_whole(tmp_path / "a") as draft:
        draft.write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_name_as_long_as_a_disk_allows_is_written_whole(tmp_path):
    with write_whole(tmp_path / ("n" * 255)) as draft:
        draft.write_text("whole")
    assert (tmp_path / ("n" * 255)).read_text() == "whole"


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_a_table_is_read_as_text_however_a_spreadsheet_wrote_it(tmp_path, separator, start):
    rows = [["path", "note"], ["000123", "NA"], ["1e5", ""], [f'"a{separator}b"', "-1.50"]]
    lines = "".join(separator.join(row) + "\r\n" for row in rows)
    (tmp_path / "table.csv").write_text(start + lines, encoding="utf-8", newline="")
    table = read_text_table(tmp_path / "table.csv")
    assert table.to_dict("list") == {"path": ["000123", "1e5", f"a{separator}b"], "note": ["NA", "", "-1.50"]}


@pytest.mark.parametrize("content", [b"", b"path\na,b.jpg\n", b"path\nc.jpg\na,b.jpg\n", b"path\n\xff.jpg\n"])
def test_a_table_of_which_a_cell_would_be_lost_is_refused_in_a_sentence(tmp_path, content):
    (tmp_path / "table.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"table\.csv cannot be read as a table \([^\n]*\)\. Expected UTF-8"):
        read_text_table(tmp_path / "table.csv")


CELLS = [
    "=cmd|'/C calc'!A0",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "\uff1d1",
    "'=1",
    "''@",
    "'quoted'",
    "a=b",
    "",
]


def test_no_cell_is_a_formula_to_a_spreadsheet_and_each_reads_back_as_it_was(tmp_path):
    table = pd.DataFrame({"=path": CELLS, "number": -1.5, "kind": pd.Categorical(CELLS)})
    safe = spreadsheet_safe(table)
    texts = [*safe.columns, *safe["'=path"], *safe["kind"]]
    assert not [text for text in texts if text.startswith(tuple("=+-@\t\r\n\uff1d"))]
    assert safe["number"].eq(-1.5).all() and safe["'=path"].tolist()[-3:] == CELLS[-3:]
    pd.testing.assert_frame_equal(as_before(safe), table)
    safe.to_csv(tmp_path / "table.csv", index=False, quoting=csv.QUOTE_NONNUMERIC)
    assert read_text_table(tmp_path / "table.csv")["=path"].tolist() == CELLS


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_folder_is_tried_before_it_is_needed_and_nothing_stays_in_it(tmp_path, monkeypatch, number):
    assert writable_folder(tmp_path / "a" / "b", "cache_dir") == tmp_path / "a" / "b"
    assert not list((tmp_path / "a" / "b").iterdir())

    def fails(**options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "TemporaryFile", fails)
    with pytest.raises(
        PermissionError, match=rf"cache_dir must be .*/a \({os.strerror(number)}\)\. Choose another cache_"
    ):
        writable_folder(tmp_path / "a", "cache_dir")
