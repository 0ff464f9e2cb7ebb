import json
import subprocess
import sys

import pandas as pd
import pytest
from matplotlib.figure import Figure

from nsfwlib import runs


def test_a_record_is_current_only_with_the_same_settings(tmp_path):
    path = runs.write_json({"settings": {"epochs": 2, "weights": None}}, tmp_path / "run.json")
    assert runs.is_current(path, {"weights": None, "epochs": 2})
    assert not runs.is_current(path, {"weights": None, "epochs": 3})
    assert not runs.is_current(tmp_path / "missing.json", {})


def test_a_table_is_current_only_with_the_same_settings_in_its_attrs(tmp_path):
    table = pd.DataFrame({"a": [1]})
    table.attrs["settings"] = {"model": "0f", "paths": ["a", "b"]}
    path = runs.write_table(table, tmp_path / "t.parquet")
    assert runs.is_current(path, {"paths": ("a", "b"), "model": "0f"})
    assert not runs.is_current(path, {"paths": ["a"], "model": "0f"})
    assert not runs.is_current(runs.write_table(pd.DataFrame({"a": [1]}), path), {})


def test_a_record_stands_for_the_files_it_was_written_with_and_for_no_others(tmp_path):
    kept = tmp_path / "model.keras"
    kept.write_bytes(b"one")
    path = runs.write_json(runs.describe(0, files=[kept], settings={"epochs": 2}), tmp_path / "run.json")
    assert runs.is_current(path, {"epochs": 2}) and runs.read_run(tmp_path)["settings"] == {"epochs": 2}
    kept.write_bytes(b"another")
    assert not runs.is_current(path, {"epochs": 2})
    with pytest.raises(ValueError, match=r"model\.keras.*is not the one.*02_fine_tune"):
        runs.read_run(tmp_path)
    kept.unlink()
    assert not runs.is_current(path, {"epochs": 2})
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"run\.json is missing.*02_fine_tune"):
        runs.read_run(tmp_path)


@pytest.fixture
def photos(tmp_path):
    """A run about two pictures, with a model, and a journal beside the pictures."""
    images = pd.DataFrame({"sha256": ["1", "2"], "given_label": ["a", "b"]})
    (tmp_path / "photos").mkdir()
    (tmp_path / "run").mkdir()
    runs.note_data(tmp_path / "run", images, tmp_path / "photos", class_map={})
    about = runs.check_data(tmp_path / "run", tmp_path / "photos")
    runs.write_json({"settings": {}, "about": about}, tmp_path / "run" / "run.json")
    (tmp_path / "photos_decisions.csv").touch()
    return images, tmp_path / "photos", tmp_path / "run", tmp_path / "photos_decisions.csv"


def test_a_run_dir_refuses_other_data_and_another_class_map_by_name(photos, tmp_path):
    images, place, run, _ = photos
    before = (run / "run.json").read_text()
    for where, table, class_map in [(tmp_path / "x", images[:1], {}), (place, images, {"a": "b"})]:
        with pytest.raises(ValueError, match=r"run is a run with (data_dir|class_map) .*Received: .*another run_dir"):
            runs.note_data(run, table, where, class_map=class_map)
    assert (run / "run.json").read_text() == before
    runs.note_data(run, images[::-1], tmp_path / "moved", class_map={})
    assert runs.read_run(run)["about"]["data_dir"] == str(tmp_path / "moved"), "the same pictures elsewhere"


def test_a_folder_that_has_grown_is_the_same_data_and_the_model_is_of_other_pictures(photos):
    images, place, run, _ = photos
    runs.note_data(run, images[:1], place, class_map={})
    with pytest.raises(FileNotFoundError, match=r"run\.json names no model\. Run notebook 02_fine_tune"):
        runs.read_run(run)
    assert runs.check_data(run, place)["class_map"] == {}


def test_a_notebook_with_other_data_or_another_journal_says_what_differs_and_what_to_do(photos, tmp_path):
    _, place, run, journal = photos
    assert "journal" not in runs.check_data(run, place, tmp_path / "none.csv")
    assert runs.check_data(run, place, journal)["journal"] == str(journal)
    with pytest.raises(ValueError, match=r"data_dir .*photos\. Received: .*other\. .*run 01_explore_data on it first"):
        runs.check_data(run, tmp_path / "other", journal)
    with pytest.raises(ValueError, match=r"the journal .*photos_dec.*\. Received: .*none\.csv\. .*journal_file"):
        runs.check_data(run, place, tmp_path / "none.csv")
    assert runs.check_data(run, place)["journal"] == str(journal) == runs.read_run(run)["about"]["journal"]
    journal.rename(tmp_path / "none.csv")
    assert runs.check_data(run, place, tmp_path / "none.csv")["journal"] == str(tmp_path / "none.csv")
    (tmp_path / "none.csv").unlink()
    with pytest.raises(ValueError, match="Put the decisions there"):
        runs.check_data(run, place, tmp_path / "none.csv")


def test_a_journal_named_by_mistake_is_left_by_what_the_error_says(photos, tmp_path):
    _, place, run, journal = photos
    slip, record = tmp_path / "another.csv", run / "run.json"
    slip.touch()
    runs.check_data(run, place, slip)
    before = record.read_text()
    with pytest.raises(ValueError, match=r'another\.csv\. Received: .* a slip, put "" in its place in run\.json'):
        runs.check_data(run, place, journal)
    assert record.read_text() == before
    record.write_text(before.replace(json.dumps(str(slip)), '""'))
    assert runs.check_data(run, place, journal)["journal"] == str(journal) == runs.read_run(run)["about"]["journal"]
    with pytest.raises(ValueError, match="the journal"):
        runs.check_data(run, place, slip)


def test_a_run_of_before_there_was_a_record_of_its_data_is_taken_as_it_is(tmp_path):
    assert runs.check_data(tmp_path, tmp_path / "photos", tmp_path / "j.csv") == {}


def test_a_record_of_an_older_version_names_no_files_and_is_read(tmp_path):
    runs.write_json({"settings": {}, "temperature": 1.5}, tmp_path / "run.json")
    assert runs.read_run(tmp_path)["temperature"] == 1.5


def test_the_fingerprint_follows_content_and_labels_and_ignores_names_and_order():
    images = pd.DataFrame({"path": ["a", "b"], "sha256": ["1", "2"]})
    labels = pd.Series(["x", "y"])
    same = runs.fingerprint(images.assign(path=["c", "d"])[::-1], labels[::-1])
    assert runs.fingerprint(images, labels) == same
    assert runs.fingerprint(images, pd.Series(["y", "x"])) != same


def test_a_missing_table_names_the_notebook_that_writes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"predictions\.parquet is missing\. Run notebook 02_fine_tune"):
        runs.read_table(tmp_path, "predictions.parquet", made_by="02_fine_tune")


def test_a_run_dir_that_is_a_file_is_refused_by_name(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(PermissionError, match=r"run_dir must be a folder that can be written.*run"):
        runs.open_run(tmp_path / "run")


def test_a_folder_of_the_run_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "figures").touch()
    with pytest.raises(PermissionError, match=r"run_dir must be.*run/figures .*Choose another run_dir"):
        runs.open_run(tmp_path / "run")


def test_notebooks_on_one_run_dir_do_not_break_one_another(tmp_path):
    code = (
        "import sys; import pandas as pd; from nsfwlib import runs\n"
        "for i in range(150):\n"
        "    run = runs.open_run(sys.argv[1])\n"
        "    runs.write_json({'settings': i}, run / 'run.json')\n"
        "    runs.write_table(pd.DataFrame({'a': [sys.argv[2]] * 999}), run / 't.parquet')\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, tmp_path / "run", name]) for name in "xyz"]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0, 0]
    assert runs.read_json(tmp_path / "run" / "run.json") == {"settings": 149}
    assert pd.read_parquet(tmp_path / "run" / "t.parquet")["a"].nunique() == 1
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["figures", "run.json", "t.parquet"]


def test_the_journal_lies_beside_the_data_never_inside(tmp_path):
    assert runs.journal_path(tmp_path / "photos") == tmp_path / "photos_decisions.csv"
    (tmp_path / "photos" / "porn").mkdir(parents=True)
    assert runs.journal_path(tmp_path / "photos" / "porn" / "..") == tmp_path / "photos_decisions.csv"
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    assert runs.journal_path(tmp_path / "link") == tmp_path / "photos_decisions.csv"
    (tmp_path / "link_decisions.csv").touch()
    assert runs.journal_path(tmp_path / "link") == tmp_path / "link_decisions.csv", "from before links were followed"
    assert runs.journal_path(tmp_path / "photos", "/elsewhere/j.csv").as_posix() == "/elsewhere/j.csv"


def test_however_a_folder_is_spelled_it_has_one_journal_beside_it(tmp_path, monkeypatch):
    (tmp_path / "photos" / "cats").mkdir(parents=True)
    (tmp_path / "link").symlink_to("photos")
    monkeypatch.chdir(tmp_path / "photos" / "cats")
    for spelling in ("..", "../", "../../photos", "../cats/..", "../../link", tmp_path / "a" / ".." / "photos"):
        assert runs.journal_path(spelling) == tmp_path / "photos_decisions.csv", spelling
    assert runs.journal_path("/").as_posix() == "/_decisions.csv"


def test_a_journal_that_lies_beside_a_link_is_still_found_but_not_two(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "link").symlink_to("photos")
    (tmp_path / "link_decisions.csv").touch()
    assert runs.journal_path(tmp_path / "link") == tmp_path / "link_decisions.csv"
    (tmp_path / "photos_decisions.csv").touch()
    with pytest.raises(
        ValueError, match=r"One folder must have one journal.*photos_dec.* and .*link_dec.*journal_file"
    ):
        runs.journal_path(tmp_path / "link")
    (tmp_path / "link_decisions.csv").unlink()
    (tmp_path / "link_decisions.csv").symlink_to("photos_decisions.csv")
    assert runs.journal_path(tmp_path / "link") == tmp_path / "photos_decisions.csv"


def test_what_a_run_leaves_does_not_name_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/alice")
    facts = {"data_dir": "/home/alice/photos", "note": "in /home/alice, /home/alicea and /mnt/home/alice"}
    table = pd.DataFrame({"a": [1]})
    table.attrs = facts
    spelled = {"data_dir": "~/photos", "note": "in ~, /home/alicea and /mnt/home/alice"}
    assert pd.read_parquet(runs.write_table(table, tmp_path / "t.parquet")).attrs == spelled
    assert table.attrs == facts, "the table at hand is left as it is"
    record = runs.write_json({"settings": facts, "image/png": "Ab/home/alice/"}, tmp_path / "run.json")
    assert runs.read_json(record) == {"settings": spelled, "image/png": "Ab/home/alice/"}
    assert runs.is_current(record, facts)
    record.write_text(json.dumps({"settings": facts}))
    assert runs.is_current(record, facts), "a record of before"


def test_an_interrupted_write_leaves_the_old_table(tmp_path, monkeypatch):
    path = runs.write_table(pd.DataFrame({"a": [1]}), tmp_path / "t.parquet")

    def fails(self, target):
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", fails)
    with pytest.raises(OSError, match="disk full"):
        runs.write_table(pd.DataFrame({"a": [2]}), path)
    assert pd.read_parquet(path)["a"].tolist() == [1]


@pytest.mark.parametrize(
    ("name", "kind", "writer"), [("history.csv", pd.DataFrame, "to_csv"), ("counts.png", Figure, "savefig")]
)
def test_a_history_and_a_figure_are_written_whole_or_not_at_all(tmp_path, monkeypatch, name, kind, writer):
    write = runs.write_table if kind is pd.DataFrame else runs.write_figure
    path = tmp_path / name
    write(kind(), path)
    old = path.read_bytes()

    def fails(self, target, **options):
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(kind, writer, fails)
    with pytest.raises(OSError, match="disk full"):
        write(kind(), path)
    assert path.read_bytes() == old and [file.name for file in tmp_path.iterdir()] == [name]
