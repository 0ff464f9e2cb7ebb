"""Two rounds: the decisions on a copy of the folders, the same pictures under examination, one small table."""

import numpy as np
import pandas as pd
import pytest
import second_round

from nsfwlib import runs
from nsfwlib.data import folder_scan, splits
from nsfwlib.demo import dataset
from nsfwlib.labels import journal


@pytest.fixture
def first(tmp_path):
    """A demo, its images table with a split, and a journal that corrects every planted error."""
    truth = dataset.make_demo(tmp_path / "demo", images_per_class=10, seed=3)
    table = folder_scan.scan(tmp_path / "demo", progress=False)
    table["group"] = np.arange(len(table))
    table = splits.assign_splits(table, seed=0)
    (tmp_path / "first").mkdir()
    runs.write_table(table, tmp_path / "first" / "images.parquet")
    wrong = table.merge(dataset.planted_errors(truth)[["path", "true_label"]], on="path")
    lines = [
        {"sha256": row.sha256, "path": row.path, "given_label": row.given_label, "decision": row.true_label}
        for row in wrong.itertuples()
    ]
    journal.append_decisions(tmp_path / "j.csv", lines)
    return tmp_path, table, truth


def test_the_copy_has_the_decided_labels_the_same_split_and_a_truth_of_its_own(first):
    folder, table, truth = first
    before = {p: p.read_bytes() for p in (folder / "demo").rglob("*") if p.is_file()}
    second_round.apply_to_copy(
        folder / "demo", folder / "j.csv", folder / "first", out_dir=folder / "cleansed", progress=False
    )
    assert {p: p.read_bytes() for p in (folder / "demo").rglob("*") if p.is_file()} == before
    fresh = dataset.read_truth(folder / "cleansed")
    assert fresh is not None and dataset.planted_errors(fresh).empty
    copied = folder_scan.scan(folder / "cleansed", progress=False)
    usable = table.loc[table["problem"].eq(""), ["sha256", "split"]]
    assert sorted(copied[["sha256", "split"]].to_numpy().tolist()) == sorted(usable.to_numpy().tolist())
    assert set(fresh["path"]) == set(copied["path"])
    labels = truth.merge(table[["path", "sha256"]], on="path").set_index("sha256")["true_label"]
    fresh = fresh.merge(copied[["path", "sha256"]], on="path").set_index("sha256")["true_label"]
    assert fresh.groupby(level=0).first().equals(labels.loc[fresh.index].groupby(level=0).first())


def test_data_without_a_planted_truth_are_copied_all_the_same(first):
    folder = first[0]
    dataset.truth_path(folder / "demo").unlink()
    second_round.apply_to_copy(
        folder / "demo", folder / "j.csv", folder / "first", out_dir=folder / "out", progress=False
    )
    assert not dataset.truth_path(folder / "out").exists() and len(list((folder / "out").rglob("*.jpg"))) > 20


def test_rounds_stand_beside_each_other_and_what_is_unknown_stays_empty(tmp_path):
    audited = [
        {"name": "believing the labels", "value": 0.8},
        {"name": "audited", "value": 0.9, "low": 0.85, "high": 0.93, "pictures": 60},
    ]
    for name, rows in {"one": [], "two": audited}.items():
        (tmp_path / name).mkdir()
        runs.write_json({"audited": rows, "test_pictures": 100}, tmp_path / name / "metrics.json")
    table = second_round.compare_rounds({"before": tmp_path / "one", "after": tmp_path / "two"})
    assert list(table.columns) == [*second_round.ACCURACIES, "low", "high", "pictures", "test"]
    assert table.loc["before"].drop("test").isna().all() and pd.isna(table.loc["after", "planted truth"])
    assert table.loc["after", ["believing the labels", "audited", "low", "pictures"]].tolist() == [0.8, 0.9, 0.85, 60]
