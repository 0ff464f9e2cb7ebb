import errno

import nbformat
import pandas as pd
import papermill
import pytest

from nsfwlib import pipeline, runs

HEADER = "a: int = 1  # a number\nrun_dir: str = '.'  # where to write\n"


def notebook(path, *sources):
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    return path


def text_of(path):
    return "".join(o.get("text", "") for cell in nbformat.read(path, 4).cells for o in cell.get("outputs", []))


def test_parameters_reach_the_notebook_and_paths_mean_the_callers_folder(tmp_path, monkeypatch):
    (tmp_path / "nb").mkdir()
    source = notebook(
        tmp_path / "nb" / "x.ipynb",
        HEADER + "data_dir: str = ''",
        "import os; print(a, data_dir, run_dir, os.getcwd())",
    )
    monkeypatch.chdir(tmp_path)
    (copy,) = pipeline.run_notebooks([source], "run", progress=False, a=5, data_dir="photos")
    assert copy == tmp_path / "run" / "notebooks" / "x.ipynb" or copy.as_posix() == "run/notebooks/x.ipynb"
    assert text_of(copy).split() == ["5", f"{tmp_path}/photos", f"{tmp_path}/run", f"{tmp_path}/nb"]


def test_prepared_copies_hold_the_parameters_and_keep_what_a_person_changed_in_them(tmp_path):
    source = notebook(tmp_path / "x.ipynb", HEADER, "print(a)")
    before = source.read_bytes()
    (copy,) = pipeline.run_notebooks([source], tmp_path / "run", progress=False, prepare=True, a=5)
    cells = nbformat.read(copy, 4).cells
    assert any("a = 5" in cell.source for cell in cells) and not text_of(copy)
    copy.write_text(copy.read_text().replace("a = 5", "a = 6"))
    pipeline.run_notebooks([source], tmp_path / "run", progress=False, prepare=True, a=7)
    assert "a = 6" in copy.read_text() and source.read_bytes() == before


def test_a_new_run_is_prepared_for_jupyterlab_with_all_notebooks_and_no_numbers_of_another(tmp_path, capsys):
    names = [path.stem for path in pipeline.NOTEBOOKS.glob("0*.ipynb")]
    data = str(tmp_path / "my photos")
    where = ["--data-dir", data, "--run-dir", str(tmp_path / "my run")]
    assert pipeline.main(["--prepare", "--notebooks", *names, *where]) == 0
    copies = [path.read_text() for path in (tmp_path / "my run" / "notebooks").glob("0*.ipynb")]
    assert len(copies) == len(names) and not capsys.readouterr().out
    assert sum(data in text for text in copies) > 4


def test_an_unknown_parameter_is_an_error_that_lists_those_there_are(tmp_path):
    source = notebook(tmp_path / "x.ipynb", HEADER)
    with pytest.raises(ValueError, match=r"No parameter b in x\. Those there are: a, run_dir\."):
        pipeline.run_notebooks([source], tmp_path / "run", b=1)
    assert not (tmp_path / "run").exists()


def test_an_unknown_notebook_lists_the_kits_own():
    with pytest.raises(FileNotFoundError, match="The kit's own are: 01_explore_data, "):
        pipeline.run_notebooks(["99_nothing"], "run")


def test_plain_papermill_with_an_unknown_parameter_fails_in_the_first_cell(tmp_path):
    source = notebook(tmp_path / "x.ipynb", HEADER, "from nsfwlib import runs; runs.begin()")
    with pytest.raises(papermill.PapermillExecutionError, match=r"no parameter typo\. Parameters it has: a, run_dir"):
        papermill.execute_notebook(str(source), str(tmp_path / "y.ipynb"), {"typo": 1, "a": 2}, progress_bar=False)


def test_a_failing_notebook_exits_non_zero_and_leaves_the_executed_copy_with_the_error(tmp_path, capsys):
    source = notebook(
        tmp_path / "x.ipynb", HEADER,
        "from nsfwlib import data, runs; from pathlib import Path; runs.begin(); print('ran')",
        "data.scan(Path('nowhere'))",
    )  # fmt: skip
    code = pipeline.main(["--notebooks", str(source), "--run-dir", str(tmp_path / "run")])
    copy = nbformat.read(tmp_path / "run" / "notebooks" / "x.ipynb", 4)
    errors = [o for cell in copy.cells for o in cell.get("outputs", []) if o["output_type"] == "error"]
    assert code == 1
    assert "nowhere" in capsys.readouterr().err and "ran" in text_of(tmp_path / "run" / "notebooks" / "x.ipynb")
    assert len(errors) == 1 and len(errors[0]["traceback"]) == 1, "a sentence, no wall of traceback"


def test_a_kernel_that_is_killed_is_a_sentence(tmp_path, capsys):
    source = notebook(tmp_path / "x.ipynb", HEADER, "import os; os.kill(os.getpid(), 9)")
    assert pipeline.main(["--notebooks", str(source), "--run-dir", str(tmp_path / "run")]) == 1
    assert "The kernel was killed" in capsys.readouterr().err


def test_the_shell_command_names_a_parameter_that_no_notebook_has(capsys):
    with pytest.raises(SystemExit) as stop:
        pipeline.main(["--data-dirr", "x"])
    assert stop.value.code == 2
    assert "no parameter --data-dirr x; those there are: --data_dir, --run_dir" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"),
    [("data-dir", "2024"), ("data-dir", "None"), ("data-dir", "photos [2020] {v2}"), ("source-pattern", "(\\d{4})"),
     ("class-map", {"a": "b"}), ("class_map", {"a": "b"}), ("seed", 7), ("blocks", ["mixed4"])],
)  # fmt: skip
def test_an_option_keeps_the_type_of_its_parameter(tmp_path, monkeypatch, option, value):
    monkeypatch.chdir(tmp_path)
    name = option.replace("-", "_")
    source = notebook(tmp_path / "x {1}.ipynb", HEADER + f"{name} = {type(value)()!r}", f"print(repr({name}))")
    assert pipeline.main(["--notebooks", str(source), "--run-dir", "run {v2}", f"--{option}", str(value)]) == 0
    expected = str(tmp_path / value) if option == "data-dir" else value
    assert text_of(tmp_path / "run {v2}" / "notebooks" / "x {1}.ipynb").strip() == repr(expected)


def test_a_notebook_of_the_users_own_has_its_parameters_as_options(tmp_path, capsys):
    source = notebook(
        tmp_path / "own.ipynb", "mine: int = 0  # of this notebook alone\nrun_dir: str = '.'", "print(mine)"
    )
    command = ["--notebooks", str(source), "--run-dir", str(tmp_path / "run")]
    assert pipeline.main([*command, "--mine", "7"]) == 0
    assert text_of(tmp_path / "run" / "notebooks" / "own.ipynb").strip() == "7"
    with pytest.raises(SystemExit):
        pipeline.main([*command, "--seed", "1"])
    assert "no parameter --seed 1; those there are: --mine, --run_dir" in capsys.readouterr().err


def test_an_executed_copy_shows_no_bar_that_stands_at_its_beginning(tmp_path):
    bars = "from tqdm.auto import tqdm\nfor _ in tqdm(range(3), desc='scan'):\n    pass\nprint('went')"
    (copy,) = pipeline.run_notebooks([notebook(tmp_path / "x.ipynb", HEADER, bars)], tmp_path / "run", progress=False)
    assert "0/3" not in copy.read_text() and text_of(copy) == "went\n"


def test_the_closing_table_holds_no_numbers_of_an_earlier_call(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.json").write_text("no numbers")
    source = notebook(tmp_path / "x.ipynb", HEADER)
    assert pipeline.main(["--notebooks", str(source), "--run-dir", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out == ""


def test_the_call_to_review_counts_the_suspects_that_review_shows(tmp_path):
    data, run, splits = tmp_path / "my photos", tmp_path / "run", ["train", "val", "test", "train"]
    issues = pd.DataFrame({"path": list("abcd"), "is_issue": [True, True, True, False], "split": splits})
    runs.write_table(issues, runs.open_run(run) / "label_issues.parquet")
    call = pipeline._next(run, data)
    assert call.startswith("\n2 labels are suspected"), "test is no part of the queue"
    assert f"make review DATA='{data}' RUN={run} REVIEWER=your-name" in call
    assert pipeline._next(run, None) == "", "the demo has no reviewer"
    runs.write_table(issues[issues["split"].eq("test")], run / "label_issues.parquet")
    assert pipeline._next(run, data) == "", "nobody is called to an empty queue"


def test_an_option_that_is_no_value_of_its_kind_is_a_sentence(capsys):
    with pytest.raises(SystemExit):
        pipeline.main(["--seed", "many"])
    assert "argument --seed: expected a value like 0. Received: 'many'." in capsys.readouterr().err


def test_an_unwritable_run_dir_is_a_sentence(tmp_path, capsys):
    (tmp_path / "file").touch()
    source = notebook(tmp_path / "x.ipynb", HEADER)
    assert pipeline.main(["--notebooks", str(source), "--run-dir", str(tmp_path / "file" / "run")]) == 2
    assert "run_dir must be a folder that can be written" in capsys.readouterr().err
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notebooks").touch()
    assert pipeline.main(["--notebooks", str(source), "--run-dir", str(tmp_path / "run")]) == 2
    assert "run_dir must be a folder that can be written" in capsys.readouterr().err


def test_a_full_disk_is_a_sentence_in_the_notebook_and_in_the_shell(tmp_path, capsys, monkeypatch):
    source = notebook(
        tmp_path / "x.ipynb", HEADER, "from nsfwlib import runs; runs.begin()", "open('/dev/full', 'wb', 0).write(b'x')"
    )
    assert pipeline.main(["--notebooks", str(source), "--run-dir", str(tmp_path / "run")]) == 1
    (cell,) = (c for c in nbformat.read(tmp_path / "run" / "notebooks" / "x.ipynb", 4).cells if "/dev/full" in c.source)
    (shown,) = cell.outputs[-1].traceback
    assert "No space left on device. Free space on the disks of run_dir and cache_dir" in shown
    capsys.readouterr()

    def full(*args, **kwargs):
        (tmp_path / "run" / "notebooks" / "x.ipynb").write_text('{"cells": [')
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(papermill, "execute_notebook", full)
    assert pipeline.main(["--notebooks", str(source), "--run-dir", str(tmp_path / "run")]) == 2
    assert f"No space left on device. Free space on the disks of {tmp_path}/run" in capsys.readouterr().err


def test_a_copy_of_a_run_that_is_under_way_does_not_name_the_home_folder(tmp_path, monkeypatch):
    home = tmp_path / "alice"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    look = "from pathlib import Path; print('ali' + 'ce' in (Path(run_dir) / 'notebooks' / 'x.ipynb').read_text())"
    source = notebook(home / "x.ipynb", HEADER, "print(run_dir)", look)
    (copy,) = pipeline.run_notebooks([source], "~/run", progress=False)
    assert text_of(copy) == "~/run\nFalse\n"


def test_an_executed_copy_does_not_name_the_home_folder_and_runs_again(tmp_path, monkeypatch):
    home = tmp_path / "alice"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    body = "from nsfwlib import runs; runs.begin(); print(data_dir, run_dir); raise RuntimeError(data_dir)"
    source = notebook(home / "x.ipynb", HEADER + "data_dir: str = ''", body)
    with pytest.raises(papermill.PapermillExecutionError):
        pipeline.run_notebooks([source], "~/run", progress=False, data_dir="~/photos")
    copy = home / "run" / "notebooks" / "x.ipynb"
    assert "alice" not in copy.read_text() and text_of(copy) == "~/photos ~/run\n"
    again = pipeline._plain(copy), str(tmp_path / "y.ipynb")
    with pytest.raises(papermill.PapermillExecutionError):
        papermill.execute_notebook(*again, progress_bar=False)
    assert text_of(tmp_path / "y.ipynb") == f"{home}/photos {home}/run\n"
