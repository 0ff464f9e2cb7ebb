"""The walk through the notebooks on folders that are not the demo: shipped pictures, other parameters, bad input."""

import json
import shutil
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import real_input
import second_round
from tiny import staged_classifier

from nsfwlib import pipeline
from nsfwlib.demo import dataset
from nsfwlib.model import save_model

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("0*.ipynb"))


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """01–04 on real photographs and drawings, one file broken and one without a label, by a network of four layers."""
    folder = tmp_path_factory.mktemp("shipped")
    data = real_input.make_folder(folder / "shipped")
    (data / "graphics" / "broken.jpg").write_bytes(b"<html>404</html>")
    (data / "unlabelled").mkdir()
    (data / "photographs" / "coins-PNG.png").rename(data / "unlabelled" / "new.png")
    save_model(staged_classifier(["a", "b"], size=96), folder / "network.keras")
    pipeline.run_notebooks(
        pipeline.STEPS, folder / "run", progress=False, data_dir=data, cache_dir=folder / "cache",
        weights=folder / "network.keras", blocks=["stage_2", "stage_4"],
        fine_tune_epochs=0, robustness_pictures=0, heat_map_pictures=0,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The same on a small demo, with other parameters."""
    folder = tmp_path_factory.mktemp("small")
    parameters = {
        "data_dir": folder / "demo", "cache_dir": folder / "cache", "demo_images": 16,
        "fine_tune_epochs": 1, "fine_tune_from": "mixed9", "blocks": ["mixed4", "mixed10"], "seed": 1, "batch_size": 8,
    }  # fmt: skip
    pipeline.run_notebooks(pipeline.STEPS, folder / "run", progress=False, **parameters)
    return folder, parameters


@pytest.mark.full
def test_a_second_round_on_the_decided_labels_is_examined_on_the_same_pictures(small):
    folder, parameters = small
    parameters = {name: value for name, value in parameters.items() if name not in ("data_dir", "demo_images")}
    table = second_round.second_round(
        folder / "demo", folder / "run", out_dir=folder / "cleansed", run_dir=folder / "second", progress=False,
        **parameters | {"fine_tune_epochs": 0, "robustness_pictures": 0, "heat_map_pictures": 0, "baseline_run": ""},
    )  # fmt: skip
    first, second = (pd.read_parquet(folder / run / "images.parquet") for run in ("run", "second"))
    test_of = [set(rows.loc[rows["split"].eq("test"), "sha256"]) for rows in (first, second)]
    dropped = test_of[0] - test_of[1]
    assert not test_of[1] - test_of[0] and len(dropped) <= 5, "placeholders may be dropped, nothing else"
    audit = pd.read_parquet(folder / "second" / "audit_test.parquet")
    assert audit["stratum"].str.startswith("reviewed").sum() >= 0.5 * len(audit), "the first audit costs nothing again"
    assert (table["low"] <= table["planted truth"]).all() and (table["planted truth"] <= table["high"]).all()
    assert table["believing the labels"].between(0, 1).all() and table["pictures"].gt(0).all()
    errors = [len(dataset.planted_errors(dataset.read_truth(folder / name))) for name in ("demo", "cleansed")]
    assert errors[1] < errors[0] / 2


@pytest.mark.full
def test_without_a_test_set_cleansing_and_evaluation_go_on_with_val_and_say_so(small, tmp_path):
    folder, _ = small
    shutil.copytree(folder / "run", tmp_path / "run", ignore=shutil.ignore_patterns("audit_*", "head_*", "*.json"))
    shutil.copy(folder / "run" / "run.json", tmp_path / "run")
    for name in ("images", "predictions"):
        table = pd.read_parquet(folder / "run" / f"{name}.parquet")
        table = (
            table[table["split"].ne("test")] if name == "predictions" else table.replace({"split": {"test": "train"}})
        )
        table.to_parquet(tmp_path / "run" / f"{name}.parquet")
    options = {
        "robustness_pictures": 0,
        "heat_map_pictures": 0,
        "cache_dir": folder / "cache",
        "data_dir": folder / "demo",
    }
    pipeline.run_notebooks(pipeline.STEPS[2:], tmp_path / "run", progress=False, **options)
    card = (tmp_path / "run" / "MODEL_CARD.md").read_text()
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert "There is no test set" in card and "## Scores on val" in card and "on test" not in card
    assert (metrics["measured_on"], metrics["test_pictures"]) == ("val", 0) and metrics["head_after"] > 0.2
    assert "02's model, val, given labels" in pipeline.summary(tmp_path / "run")


def test_executed_notebooks_hold_no_widget_state_and_only_figures(shipped):
    copies = sorted((shipped / "run" / "notebooks").glob("*.ipynb"))
    assert [copy.stem for copy in copies] == list(pipeline.STEPS)
    for copy in copies:
        notebook = nbformat.read(copy, 4)
        assert "widgets" not in notebook.metadata, copy.name
        kinds = {k for cell in notebook.cells for o in cell.get("outputs", []) for k in o.get("data", {})}
        assert not kinds & {"image/jpeg", "image/webp", "application/vnd.jupyter.widget-state+json"}, copy.name
        assert "image/png" in kinds, f"{copy.name} shows no figure"
        assert "Traceback" not in copy.read_text(), copy.name


def test_real_photographs_and_drawings_of_every_form_go_all_the_way_unanswered(shipped):
    table = pd.read_parquet(shipped / "run" / "images.parquet")
    assert table["problem"].ne("").sum() == 1
    assert table.loc[table["problem"].ne(""), "path"].tolist() == ["graphics/broken.jpg"]
    cleansing = json.loads((shipped / "run" / "cleansing.json").read_text())
    assert cleansing == {"found": "0 wrong of 0 looked at", "changed": 0, "simulated": False}
    assert not (shipped / "shipped_decisions.csv").exists()
    issues = pd.read_parquet(shipped / "run" / "label_issues.parquet").set_index("path")
    assert issues.loc["unlabelled/new.png", "suggested"] in ("graphics", "photographs"), (
        "it enters review by prediction"
    )


def bad_folder(kind, folder):
    if kind == "missing":
        return folder / "nowhere"
    (folder / "data").mkdir()
    if kind == "no class folders":
        (folder / "data" / "a.jpg").write_bytes(b"x")
    if kind in ("one class", "no readable image"):
        (folder / "data" / "only").mkdir()
        source = real_input.PHOTOGRAPHS[0].read_bytes() if kind == "one class" else b"no image"
        (folder / "data" / "only" / "a.jpg").write_bytes(source)
    return folder / "data"


def run_cells(name, **parameters):
    """The cells of a notebook in this process, with these parameters, up to the first that fails."""
    cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4).cells
    cells = [cell.source for cell in cells if cell.cell_type == "code"]
    names = {}
    for i, source in enumerate(cells):
        exec(source, names)
        names |= parameters if i == 0 else {}


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("missing", "nowhere"),
        ("empty", "data"),
        ("no class folders", "class"),
        ("no readable image", "usable"),
        ("one class", "Only one class"),
    ],
)
def test_bad_input_is_one_sentence_and_a_way_out(tmp_path, kind, sentence):
    data = bad_folder(kind, tmp_path)
    with pytest.raises((OSError, ValueError)) as error, pd.option_context("display.max_colwidth", 50):  # as it was
        run_cells("01_explore_data", data_dir=data, run_dir=tmp_path / "run", cache_dir=tmp_path / "cache")
    assert sentence in str(error.value) and len(str(error.value).splitlines()) == 1


def test_bad_input_ends_notebook_and_shell_with_its_sentence_alone(tmp_path, capsys):
    data = bad_folder("one class", tmp_path)
    code = pipeline.main(
        ["--notebooks", "01_explore_data", "--data-dir", str(data), "--run-dir", str(tmp_path / "run")]
    )
    message = capsys.readouterr().err.strip().splitlines()
    copy = nbformat.read(tmp_path / "run" / "notebooks" / "01_explore_data.ipynb", 4)
    errors = [o for cell in copy.cells for o in cell.get("outputs", []) if o["output_type"] == "error"]
    assert code == 1 and any("Only one class" in line for line in message), message
    assert [len(error["traceback"]) for error in errors] == [1]
