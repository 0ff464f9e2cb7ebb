import ast
import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace as Namespace

import ipywidgets
import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest

from nsfwlib import evaluate, labels, pipeline, runs
from nsfwlib.demo import dataset
from nsfwlib.files import file_hash
from nsfwlib.model import build
from nsfwlib.model.classifier import class_names

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("0*.ipynb"))


def sources(notebook, kind="code"):
    return [cell.source for cell in nbformat.read(notebook, 4).cells if cell.cell_type == kind]


@pytest.fixture(scope="module")
def executed():
    """Notebooks 01–04 on their defaults: as nbval left them, which runs before on the same worker, or else run here."""
    folder = ROOT / "build" / "nbval"
    if not folder.exists():
        for part in ("notebooks", "_art"):
            shutil.copytree(ROOT / part, folder / part)
    if not (folder / "runs" / "demo" / "metrics.json").exists():
        own = [folder / "notebooks" / f"{step}.ipynb" for step in pipeline.STEPS]
        pipeline.run_notebooks(own, folder / "runs" / "demo", progress=False, data_dir=folder / "data" / "demo")
    return folder


def test_every_artefact_of_the_house_plan_is_there(executed):
    run = executed / "runs" / "demo"
    for name in (
        "images.parquet", "model.keras", "history.csv", "predictions.parquet", "run.json", "pred_probs.parquet",
        "label_issues.parquet", "labels.parquet", "metrics.json", "figures/confusion.png",
        "figures/confusion_cleansing.png", "figures/noise.png", "figures/history.png", "audit_test.parquet",
        "audit_test.json", "audit_train.parquet", "figures/audited.png", "figures/confusion_audited.png",
    ):  # fmt: skip
        assert (run / name).stat().st_size > 100, name


def test_the_simulated_reviewer_finds_planted_errors_and_leaves_no_trace_in_the_real_journal(executed):
    run = executed / "runs" / "demo"
    cleansing = json.loads((run / "cleansing.json").read_text())
    truth = dataset.read_truth(executed / "data" / "demo").set_index("path")
    labels = pd.read_parquet(run / "labels.parquet").set_index("path")
    changed = labels["label"].notna() & labels["label"].ne(labels["given_label"])
    assert cleansing["simulated"] and changed.sum() >= 2
    assert labels.loc[changed, "label"].eq(truth.loc[labels.index[changed], "true_label"]).all()
    audit = pd.read_parquet(run / "audit_test.parquet").set_index("path")
    untouched = labels.index[labels["split"].eq("test")].difference(audit.index[audit["picked"]])
    assert labels.loc[untouched, "label"].eq(labels.loc[untouched, "given_label"]).all()
    assert not (executed / "data" / "demo_decisions.csv").exists()


def test_the_audited_accuracy_of_the_executed_run_is_near_the_planted_one(executed):
    run = executed / "runs" / "demo"
    audited = pd.DataFrame(json.loads((run / "metrics.json").read_text())["audited"]).set_index("name")
    audit = pd.read_parquet(run / "audit_test.parquet")
    planted = (
        dataset.read_truth(executed / "data" / "demo").set_index("path").loc[audit["path"], "true_label"].to_numpy()
    )
    assert audited.loc["planted truth", "value"] == pytest.approx((audit["predicted"] == planted).mean())
    assert audited.loc["audited", "low"] <= audited.loc["planted truth", "value"] <= audited.loc["audited", "high"]
    assert audited.loc["audited", "pictures"] == audit["picked"].sum()


def test_the_raw_folder_is_as_01_found_it(executed):
    folder, table = executed / "data" / "demo", pd.read_parquet(executed / "runs" / "demo" / "images.parquet")
    hashed = table[table["sha256"].ne("")].set_index("path")["sha256"]
    assert len(hashed) > 700 and hashed.eq([file_hash(folder / path) for path in hashed.index]).all()
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == set(table["path"])


def test_the_saved_model_predicts_what_the_table_says(executed):
    from nsfwlib.train import head

    run = executed / "runs" / "demo"
    table = pd.read_parquet(run / "predictions.parquet")
    classifier = build.load_model(run / "model.keras")
    names = class_names(classifier)
    found = head.predict(classifier, table.head(4), executed / "data" / "demo", progress=False)
    assert abs(found - table.head(4)[names].to_numpy()).max() < 1e-3


def test_a_second_run_loads_what_is_still_valid(executed):
    run = executed / "runs" / "demo"
    before = (run / "model.keras").stat().st_mtime_ns
    started = time.perf_counter()
    own = executed / "notebooks" / "02_fine_tune.ipynb"
    pipeline.run_notebooks([own], run, progress=False, data_dir=executed / "data" / "demo")
    assert (run / "model.keras").stat().st_mtime_ns == before
    assert time.perf_counter() - started < 120


def test_training_that_is_stopped_while_it_writes_leaves_no_record_of_another_model(tmp_path):
    (writing,) = (source for source in sources(ROOT / "notebooks" / "02_fine_tune.ipynb") if "save_model" in source)
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "model.keras").write_bytes(b"old")

    def stopped(model, path):
        path.write_bytes(b"new")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        known = {"done": False, "run_dir": tmp_path, "classifier": None, "about": {"data_dir": "x"}, "runs": runs}
        exec(writing, known | {"model": Namespace(save_model=stopped)})
    assert json.loads((tmp_path / "run.json").read_text()) == {"about": {"data_dir": "x"}}, "of the data alone"


def test_the_work_of_stage_2_is_cleared_only_when_the_model_and_its_record_are_on_disk():
    code = sources(ROOT / "notebooks" / "02_fine_tune.ipynb")
    (tuning,) = (source for source in code if "train.fine_tune(" in source)
    (writing,) = (source for source in code if "save_model" in source)
    assert "keep=True" in tuning
    assert writing.index("save_model") < writing.rindex("write_json") < writing.index("rmtree")


def test_a_folder_without_a_test_set_is_trained_on_and_the_notebook_says_so(capsys):
    (counting,) = (source for source in sources(ROOT / "notebooks" / "02_fine_tune.ipynb") if "crosstab" in source)
    rows = pd.DataFrame({"label": ["a", "b"] * 2, "split": ["train", "train", "val", "val"]})
    run = Namespace(read_table=lambda *_, **__: rows)
    known = {"pd": pd, "run_dir": None, "journal_path": None, "runs": run}
    known |= {"data": Namespace(SPLITS=("train", "val", "test"))}
    exec(counting, known | {"labels": Namespace(current_labels=lambda table, journal: table["label"])})
    assert "no test set" in capsys.readouterr().out


def test_decisions_on_flagged_files_never_enter_the_journal_that_training_reads(tmp_path):
    (looking,) = (
        source for source in sources(ROOT / "notebooks" / "05_score_images.ipynb") if "ReviewSession" in source
    )
    opened = []
    review = Namespace(flagged_queue=lambda *_, **__: pd.DataFrame({"score": [1.0]}), ReviewGrid=lambda *_: None)
    review.ReviewSession = lambda queue, journal, **_: opened.append(journal)
    known = {"review": review, "run_dir": tmp_path, "Path": Path, "journal_file": "", "flag_above": 0.5}
    known |= dict.fromkeys(["table", "unsafe", "pictures", "show_least", "class_names", "reviewer", "page_size"])
    exec(looking, known | {"points": None, "display": lambda _: None})
    assert opened == [tmp_path / "flagged_decisions.csv"]


def test_what_review_changed_is_counted_from_the_folders_names_when_03_runs_again_after_it(tmp_path):
    (counting,) = (
        source for source in sources(ROOT / "notebooks" / "03_cleanse_labels.ipynb") if "what_chang" in source
    )
    table = pd.DataFrame({"path": ["x", "y"], "sha256": ["1", "2"], "given_label": ["a", "b"], "problem": ""})
    labels.append_decisions(tmp_path / "j.csv", {"sha256": "1", "path": "x", "given_label": "a", "decision": "b"})
    shown, before = [], labels.current_labels(table, tmp_path / "j.csv")
    known = {"table": table, "labels": labels, "before": before, "review_path": tmp_path / "j.csv"}
    exec(counting, known | {"display": shown.append})
    assert shown[0].loc["a", "b"] == 1


def cell(notebook, part):
    (found,) = (source for source in sources(ROOT / "notebooks" / f"{notebook}.ipynb") if part in source)
    return found


def test_a_class_called_unsafe_is_not_taken_for_the_unsafe_side_of_the_traffic():
    known = {"unsafe_classes": ["unsafe", "gore"], "class_names": ["gore", "safe", "unsafe"]}
    exec(next(line for line in cell("08_plan_deployment", "kinds = ").splitlines() if line.startswith("kinds")), known)
    assert [*known["kinds"].values()] == [["unsafe", "gore"], ["gore"], ["safe"], ["unsafe"]]
    shares = pd.DataFrame({"name": [f"{kind}, a day" for kind in reversed(known["kinds"])], "value": range(4)})
    measured = cell("08_plan_deployment", "measured = ").splitlines()[0]
    exec(measured, known | {"shares": shares}, found := {})
    assert found["measured"]["value"] == 3


def test_04_says_how_many_pictures_02_could_not_read_and_nothing_where_it_read_all(capsys):
    table = pd.DataFrame({"path": list("abcd"), "group": range(4), "given_label": "x"})
    scored = pd.DataFrame({"path": list("abcd"), "x": 0.6, "y": 0.4, "split": ["test", "test", "val", "val"]})
    for lost, said in ((["b", "c"], " 2 pictures that 02 could not read are missing"), ([], "")):
        predictions = scored.set_index("path")
        predictions.loc[lost, ["x", "y"]] = float("nan")
        tables = {"images": table, "predictions": predictions.reset_index(), "labels": table}
        read = Namespace(read_run=lambda _: {}, read_table=lambda _, name, tables=tables, **__: tables[Path(name).stem])
        exec(cell("04_analyse_errors", "unread"), here := {"runs": read, "run_dir": None, "evaluate": evaluate})
        assert capsys.readouterr().out == f"{here['worth']}{said}{' from all that follows.' * bool(said)}\n"
        assert [*here["test"].index, *here["validation"].index] == [path for path in "abcd" if path not in lost]


def test_the_sliders_of_08_show_a_figure_once_and_begin_at_the_share_that_the_plan_has():
    shown, drawn, asked = [], [], {}
    widgets = Namespace(IntSlider=ipywidgets.IntSlider, FloatSlider=ipywidgets.FloatSlider, VBox=lambda parts: parts)
    widgets.interactive_output = lambda draw, sliders: draw(**{name: one.value for name, one in sliders.items()})
    known = {"ipywidgets": widgets, "display": shown.append, "runs": Namespace(is_interactive=lambda: True)}
    known |= {"plots": Namespace(plot_week=lambda week: drawn.append(week) or Namespace(figure="a figure"))}
    known |= {"to_person": 0.4, "uploads_an_hour": 9.0, "of_queue": {}}
    known["evaluate"] = Namespace(review_week=lambda *_, **queue: asked.update(queue))
    exec(cell("08_plan_deployment", "interactive_output"), known | {"np": np, "staff": np.ones(24, int)})
    assert len(drawn) == 1 and len(shown) == 1, "interactive_output shows by itself what was drawn"
    assert asked["to_person"] == pytest.approx(0.4) and all(one.description for one in shown[0][:2])


def test_another_backbone_needs_no_other_blocks_and_a_slip_of_a_block_stays_an_error():
    layers = [Namespace(name=name) for name in ("early", "middle", "late", "last")]
    model = Namespace(build_classifier=lambda *_, **__: Namespace(layers=layers))
    model.find_blocks, model.head_blocks = (lambda *_: ["early", "middle", "late", "last"]), lambda *_: ["last"]
    model.with_head = lambda *_, blocks: blocks
    known = dict.fromkeys(["weights", "backbone", "seed", "class_names"]) | {"done": False, "model": model}
    for blocks, expected in {"mixed4": "middle late last", "early": "early last", "": "middle late last"}.items():
        here = known | {"blocks": [blocks] * bool(blocks), "fine_tune_from": "", "stage_2": {}}
        exec(cell("02_fine_tune", "find_blocks"), here)
        assert here["classifier"] == expected.split() and here["stage_2"] == {"fine_tune_from": "late"}
    here = known | {"blocks": ["early", "typo"], "fine_tune_from": "middle", "stage_2": {}}
    exec(cell("02_fine_tune", "find_blocks"), here)
    assert "typo" in here["classifier"] and here["fine_tune_from"] == "middle", "with_head names those there are"


def test_a_second_network_judges_beside_the_first_where_it_is_asked_for():
    model = Namespace(build_classifier=lambda *_, **__: "first", published_model=lambda name: name)
    model.find_blocks = lambda network: [f"{network} {end}" for end in ("early", "middle", "late", "last")]
    model.block_features = lambda network, *_, blocks, **__: dict.fromkeys(blocks, network)
    run = Namespace(read_table=lambda *_, **__: pd.DataFrame({"problem": [""], "split": ["train"]}))
    data = Namespace(check_usable=lambda *_: ["a", "b"], check_there=lambda *_: None)
    known = dict.fromkeys(["run_dir", "data_dir", "cache_dir", "weights", "seed"]) | {"model": model, "runs": run}
    ends = [f"{{}} {end}" for end in ("middle", "late", "last")]
    for blocks, own in ((["x"], ["x"]), ([], [end.format("first") for end in ends])):
        for second in ([], ["MobileNetV2"]):
            exec(cell("03_cleanse_labels", "find_blocks"), here := known | {"data": data, "blocks": blocks + second})
            others = [end.format("MobileNetV2") for end in ends] if second else []
            assert here["features"] == dict.fromkeys(own, "first") | dict.fromkeys(others, "MobileNetV2")


def test_labels_that_a_person_has_confirmed_are_not_among_those_that_seem_wrong():
    asked, figure = [], Namespace(write_figure=lambda *_: None)
    noise = Namespace(noise_matrix=lambda rows, *_, **__: asked.append(rows))
    known = {"before": pd.Series(["a", "b"]), "issues": pd.DataFrame({"note": ["confirmed", ""]}), "labels": noise}
    known |= {"evaluate": Namespace(published_matrices=lambda *_, **__: []), "run_dir": Path(), "runs": figure}
    known |= dict.fromkeys(["pred_probs", "class_names"]) | {
        "plt": Namespace(subplots=lambda *_, **__: (None, {(0, 0): 0}))
    }
    exec(
        cell("03_cleanse_labels", "noise_matrix"), known | {"plots": Namespace(plot_noise_matrix=lambda *_, **__: None)}
    )
    assert asked[0].isna().tolist() == [True, False]


def test_an_audit_that_nobody_answered_has_seen_no_label_and_has_no_figure(capsys):
    errors = pd.DataFrame(
        {"truth": ["", ""], "audited": [0, 0], "name": "", "value": None, "low": 0, "high": 1, "note": ""}
    )
    known = dict.fromkeys(["review_path", "class_names", "display", "plots", "runs"]) | {"frozen": {"train": None}}
    known["evaluate"] = Namespace(label_errors=lambda *_, **__: errors)
    known["table"] = pd.DataFrame({"path": ["x"], "given_label": ["a"]})
    exec(cell("03_cleanse_labels", "label_errors("), known)
    assert "No wrong label was seen in 0 pictures" in capsys.readouterr().out


def test_the_model_of_2019_is_compared_on_sides_where_classes_are_others():
    known = {"unsafe_classes": ["b"], "class_names": ["a", "b"], "run_dir": None, "mappings": {"x": {"y": "a"}}}
    known |= {"detectors": {"old": "published", "x": "x.csv"}, "sources": {"old": 1, "x": 2}, "compared": None}
    known["evaluate"] = Namespace(unsafe_side=lambda asked, *_, **__: asked)
    known["evaluate"].read_detector = lambda source, *_, mapping=None, **__: mapping
    exec(cell("07_compare_detectors", "space = "), known)
    assert known["found"]["x"] == {"y": "a"} and known["found"]["old"]["porn"] == "unsafe"
    exec(cell("07_compare_detectors", "space = "), five := known | {"class_names": [*known["five"]], "mappings": {}})
    assert five["found"]["old"] is None, "its labels are the classes"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_explains_more_than_it_computes(notebook):
    code, prose = sources(notebook), sources(notebook, "markdown")
    lengths = sorted(len(source.splitlines()) for source in code)
    assert len(prose) >= 0.6 * len(code) and lengths[len(lengths) // 2] <= 8 and lengths[-1] <= 16
    defined = [node for source in code for node in ast.walk(ast.parse(source))]
    assert not any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in defined), "those belong in the library"
    assert any("assert " in source for source in code[-2:]), "the last cells assert what the notebook promises"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_parameter_says_what_it_is(notebook):
    for name, about in papermill.inspect_notebook(str(notebook)).items():
        assert about["help"], name


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_parameter_reaches_a_cell(notebook):
    nodes = [node for source in sources(notebook) for node in ast.walk(ast.parse(source))]
    read = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    assert set(papermill.inspect_notebook(str(notebook))) <= read


def test_one_pass_over_the_pictures_in_01_serves_02_and_03():
    blocks = {
        path.stem: set(ast.literal_eval(papermill.inspect_notebook(str(path))["blocks"]["default"]))
        for path in NOTEBOOKS[:3]
    }
    assert blocks["01_explore_data"] == blocks["02_fine_tune"] | blocks["03_cleanse_labels"]
