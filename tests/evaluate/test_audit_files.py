"""Frozen audits: drawn once, never silently again, answered blind, and what they then say."""

import numpy as np
import pandas as pd
import pytest

from nsfwlib import runs
from nsfwlib.evaluate import audit_files, intervals
from nsfwlib.evaluate.audit import audit_accuracies, audit_costs, audited_confusion
from nsfwlib.labels import journal
from nsfwlib.review import ReviewSession

NAMES = ["cat", "dog", "emu"]


def make_split(n=600, *, seed=0, noise=0.15, skill=0.85, split="test"):
    """Rows to draw an audit from, and their true classes: labels wrong at random, a model that is often right."""
    rng = np.random.default_rng(seed)
    names = np.array(NAMES, object)
    true = rng.choice(names, n)
    label = np.where(rng.random(n) < noise, rng.choice(names, n), true)
    predicted = np.where(rng.random(n) < skill, true, rng.choice(names, n))
    rows = pd.DataFrame(
        {
            "path": [f"{name}/{i}.jpg" for i, name in enumerate(label)],
            "sha256": [f"{i:064x}" for i in range(n)],
            "group": range(n),
            "split": split,
            "label": label,
            "predicted": predicted,
            "reviewed": False,
            "answered": False,
        }
    )
    probs = np.where(true[:, None] == names, 3, 0) + rng.normal(size=(n, 3))
    rows[[f"P({name})" for name in NAMES]] = np.exp(probs) / np.exp(probs).sum(axis=1, keepdims=True)
    return rows, true


def answer(path, audit, true, *, picked=True, **more):
    """Write the truth of the picked rows to a journal, as blind answers or as `more` has it."""
    true = pd.Series(true, audit.index)
    rows = audit[audit["picked"]] if picked else audit
    lines = [
        {"kind": "audit", "sha256": row.sha256, "path": row.path, "given_label": row.label, "decision": true[row.Index]}
        | more
        for row in rows.itertuples()
    ]
    journal.append_decisions(path, lines)


def freeze(folder, rows, about="model 1", **options):
    return audit_files.freeze_audit(folder, "test", rows, about=about, **options)


def test_an_audit_is_drawn_once_and_says_of_what(tmp_path):
    rows, _ = make_split()
    first = freeze(tmp_path, rows, budget=40)
    again = freeze(tmp_path, rows.assign(label="cat"), budget=40, seed=9)
    pd.testing.assert_frame_equal(first, again)
    pd.testing.assert_frame_equal(first, audit_files.load_audit(tmp_path, "test"))
    record = runs.read_json(tmp_path / "audit_test.json")
    assert record["about"] == "model 1" and record["seed"] == 0 and sum(record["strata"].values()) == len(rows)
    assert sum(record["picked"].values()) == first["picked"].sum()
    assert set(first.columns) == {*audit_files.AUDIT_COLUMNS, *(f"P({name})" for name in NAMES)}


def test_an_audit_that_somebody_began_is_never_drawn_again_for_another_model(tmp_path):
    rows, _ = make_split()
    first = freeze(tmp_path, rows)
    begun = rows.assign(answered=rows["sha256"].isin(first.loc[first["picked"], "sha256"].head(1)))
    with pytest.raises(ValueError, match=r"was drawn for model 1\. Received: model 2\. .* new run_dir"):
        freeze(tmp_path, begun, about="model 2")
    pd.testing.assert_frame_equal(first, audit_files.load_audit(tmp_path, "test"))


def test_an_audit_that_nobody_began_is_drawn_anew_for_a_new_model_and_says_so(tmp_path):
    rows, _ = make_split()
    freeze(tmp_path, rows)
    with pytest.warns(UserWarning, match="drawn anew"):
        freeze(tmp_path, rows, about="model 2", seed=1)
    assert runs.read_json(tmp_path / "audit_test.json")["about"] == "model 2"


def test_a_larger_audit_keeps_what_was_picked_and_a_smaller_number_does_not_shrink_it(tmp_path):
    rows, _ = make_split()
    small = freeze(tmp_path, rows, budget=40)
    large = freeze(tmp_path, rows, budget=90)
    assert large["picked"].sum() == pytest.approx(90, abs=2) and large.loc[small["picked"], "picked"].all()
    pd.testing.assert_frame_equal(freeze(tmp_path, rows, budget=10), large)
    assert "enlarged" in runs.read_json(tmp_path / "audit_test.json")


def test_what_was_reviewed_before_is_asked_again_blind_and_counts_only_then(tmp_path):
    rows, _ = make_split()
    rows["reviewed"] = np.arange(len(rows)) < 200
    audit = freeze(tmp_path, rows)
    again = audit[audit["picked"] & audit["stratum"].str.startswith("reviewed")]
    assert 0 < len(again) < 100 and set(again["sha256"]) <= set(audit_files.audit_queue(audit)["sha256"])
    path, shown = tmp_path / "j.csv", {"kind": "decision", "suggested": "dog", "score": 0.5}
    answer(path, audit[audit["stratum"].str.startswith("reviewed")], rows["label"], picked=False, **shown)
    assert audit_files.audit_truth(audit, path, class_names=NAMES).isna().all()
    session = ReviewSession(audit_files.audit_queue(audit), path, class_names=NAMES, mode="audit")
    assert session.progress()["decided"] == 0
    session.decide(again["path"].iloc[0], "emu")
    verdict = audit_files.audit_truth(audit, path, class_names=NAMES)
    assert verdict.dropna().tolist() == ["emu"] and session.decision(again["sha256"].iloc[0]) == "emu"


def test_answers_of_audits_before_they_had_a_kind_of_their_own_still_count(tmp_path):
    rows, true = make_split(300)
    audit = freeze(tmp_path, rows)
    answer(tmp_path / "j.csv", audit, true, kind="decision")
    verdict = audit_files.audit_truth(audit, tmp_path / "j.csv", class_names=NAMES)
    assert verdict.notna().sum() == audit["picked"].sum()


def test_an_audit_frozen_without_a_judge_is_still_weighed_and_enlarged(tmp_path):
    rows, true = make_split(800)
    freeze(tmp_path, rows)
    old = pd.read_parquet(tmp_path / "audit_test.parquet").filter(items=audit_files.AUDIT_COLUMNS)
    runs.write_table(old, tmp_path / "audit_test.parquet")
    audit = audit_files.load_audit(tmp_path, "test")
    found = audit_accuracies(audit, pd.Series(np.where(audit["picked"], true, None))).set_index("name")
    assert found.loc["audited", "low"] < (rows["predicted"] == true).mean() < found.loc["audited", "high"]
    assert freeze(tmp_path, rows, budget=300)["picked"].sum() > 290


def test_an_audit_of_a_split_without_pictures_can_be_opened_again(tmp_path):
    empty = freeze(tmp_path, make_split()[0].head(0))
    pd.testing.assert_frame_equal(audit_files.load_audit(tmp_path, "test"), empty, check_dtype=False)


def test_review_that_keeps_wrong_labels_does_not_make_them_right(tmp_path):
    rows, true = make_split(2000, split="train", noise=0.3)
    audit = audit_files.freeze_audit(tmp_path, "train", rows, about="labels", budget=300)
    answer(tmp_path / "j.csv", audit, true)
    answer(tmp_path / "j.csv", audit, rows["label"], kind="decision", suggested="dog", score=0.5)
    given = rows.set_index("path")["label"]
    found = audit_files.label_errors(audit, given, tmp_path / "j.csv", class_names=NAMES).iloc[0]
    assert found["low"] < (rows["label"] != true).mean() < found["high"]


def test_errors_left_are_those_that_there_were_less_those_corrected_whenever_one_asks(tmp_path):
    rows, true = make_split(2000, split="train", noise=0.3)
    audit, path = audit_files.freeze_audit(tmp_path, "train", rows, about="labels", budget=400), tmp_path / "j.csv"
    wrong = rows["label"].ne(true)
    assert "unknown" in audit_files.errors_left(audit, images_table(rows), path, class_names=NAMES)["sentence"]
    answer(path, audit, true)
    mended = rows[wrong & ~audit["picked"]].head(150)
    answer(path, mended.assign(picked=True), true[mended.index], kind="decision", suggested="cat", score=0.5)
    left, again = (audit_files.errors_left(audit, images_table(rows), path, class_names=NAMES) for _ in range(2))
    still = wrong.sum() - (wrong & audit["picked"]).sum() - 150
    assert left == again and left["low"] <= still <= left["high"]
    assert left["sentence"] == f"label errors left in train: {left['value']} ({left['low']}–{left['high']})"


def test_second_looks_of_somebody_else_say_how_far_an_audit_may_be_trusted(tmp_path):
    rows, true = make_split(800)
    audit, path = freeze(tmp_path, rows, budget=300), tmp_path / "j.csv"
    picked, rng = audit[audit["picked"]], np.random.default_rng(0)
    slip = lambda: np.where(rng.random(800) < 0.08, rng.choice(NAMES, 800), true)  # noqa: E731
    answer(path, audit, slip(), reviewer="Ada")
    assert audit_files.second_looks(audit, path, class_names=NAMES) is None
    for who, some in {"Bob": picked.head(100), "Ada": picked.tail(50)}.items():
        answer(path, some, slip()[some.index], reviewer=who, kind="second")
    slips = audit_files.second_looks(audit, path, class_names=NAMES)
    assert (slips.classes, slips.pictures) == (3, 100) and 0.9 < slips.right < 0.98
    verdict = audit_files.audit_truth(audit, path, class_names=NAMES)
    table = audit_accuracies(audit, verdict, slips=slips).set_index("name")
    assert table.loc["audited, slips taken out", "value"] > table.loc["audited", "value"]
    assert "100 second looks" in table.loc["audited, slips taken out", "note"]


def test_the_width_so_far_is_told_and_never_the_estimate(tmp_path):
    rows, true = make_split(800)
    audit, path = freeze(tmp_path, rows, budget=200), tmp_path / "j.csv"
    said = lambda wish: audit_files.audit_width({"test": audit, "val": None}, path, class_names=NAMES, wish=wish)  # noqa: E731
    assert said(2.5) == f"test: {audit['picked'].sum()} pictures to look at; wish ±2.5 points"
    answer(path, audit[audit["order"] < 30], true[audit["order"] < 30])
    assert said(1).startswith("test: ±") and "looks; wish ±1: about" in said(1) and "%" not in said(1)
    assert said(40).endswith("wish ±40: done")


def test_the_session_gives_nothing_away_and_its_beginning_is_a_sample_of_all_strata(tmp_path):
    audit = freeze(tmp_path, make_split()[0], budget=100)
    queue = audit_files.audit_queue(audit)
    session = ReviewSession(queue, tmp_path / "j.csv", class_names=NAMES, mode="audit")
    assert not {"stratum", "predicted", "order", "picked", "label"} & set(session.queue)
    assert session.queue[["given", "suggested"]].eq("").all(axis=None)
    shares = audit.loc[audit["picked"], "stratum"].value_counts(normalize=True)
    strata = queue["sha256"].map(audit.set_index("sha256")["stratum"])
    begin = strata.head(len(queue) // 3).value_counts(normalize=True)
    assert (begin - shares).abs().max() < 0.03 and not strata.is_monotonic_increasing


def test_audited_accuracy_finds_the_truth_where_the_labels_mislead(tmp_path):
    rows, true = make_split(1500)
    audit = freeze(tmp_path, rows, budget=150)
    answer(tmp_path / "j.csv", audit, true)
    verdict = audit_files.audit_truth(audit, tmp_path / "j.csv", class_names=NAMES)
    table = audit_accuracies(audit, verdict, planted=true).set_index("name")
    truth = (rows["predicted"] == true).mean()
    assert table.loc["planted truth", "value"] == pytest.approx(truth)
    assert table.loc["audited", "low"] < truth < table.loc["audited", "high"]
    assert table.loc["believing the labels", "high"] < truth
    assert table.loc["audited", "pictures"] == audit["picked"].sum()


def test_enlarging_an_audit_after_a_look_does_not_bias_it(tmp_path, monkeypatch):
    monkeypatch.setattr(intervals, "DRAWS", 10)  # of the interval, which is not asked for
    errors = []
    for seed in range(30):
        rows, true = make_split(500, seed=seed)
        folder = tmp_path / str(seed)
        folder.mkdir()
        freeze(folder, rows, budget=40, seed=seed)
        audit = freeze(folder, rows, budget=120, seed=seed)
        verdict = pd.Series(np.where(audit["picked"], true, None))
        found = audit_accuracies(audit, verdict).set_index("name").loc["audited", "value"]
        errors.append(found - (rows["predicted"] == true).mean())
    assert abs(np.mean(errors)) < 0.004


def test_a_verdict_is_a_class_or_drop_and_unsure_is_none(tmp_path):
    path = tmp_path / "j.csv"
    for i, decision in enumerate(["keep", "dog", "drop", "unsure", "escalate"]):
        journal.append_decisions(path, {"kind": "audit", "sha256": str(i), "given_label": "cat", "decision": decision})
    audit = pd.DataFrame({"sha256": list("012345")})
    assert audit_files.audit_truth(audit, path, class_names=NAMES).tolist() == [
        "cat",
        "dog",
        "drop",
        None,
        None,
        None,
    ]


def test_a_dropped_picture_counts_against_accuracy_and_is_in_no_row_of_the_matrix(tmp_path):
    rows, true = make_split(200)
    true[:20] = "drop"
    audit = freeze(tmp_path, rows, budget=200)
    answer(tmp_path / "j.csv", audit, true)
    verdict = audit_files.audit_truth(audit, tmp_path / "j.csv", class_names=NAMES)
    assert audit_accuracies(audit, verdict).set_index("name").loc["audited", "value"] == pytest.approx(
        (rows["predicted"] == true).mean()
    )
    matrix, _ = audited_confusion(verdict, audit["predicted"], audit, class_names=NAMES)
    assert matrix.sum() == pytest.approx(180)


def test_costs_are_told_before_anyone_looks_and_sizes_beyond_the_last_come_once(tmp_path):
    audit = freeze(tmp_path, make_split(150)[0])
    plan = audit_costs({"test": audit})
    assert plan["pictures"].is_monotonic_increasing and plan["pictures"].is_unique
    assert plan["pictures"].iloc[-1] == len(audit) and plan["width"].is_monotonic_decreasing


def images_table(rows):
    return rows[["path", "sha256", "group", "split"]].assign(given_label=rows["label"], problem="")


def write_predictions(run_dir, rows, *, sharpness=0.8):
    probs = pd.DataFrame(0.1, rows["path"], NAMES)
    for name in NAMES:
        probs.loc[(rows["predicted"] == name).to_numpy(), name] = sharpness
    runs.write_table(probs.assign(split=rows["split"].to_numpy()).reset_index(), run_dir / "predictions.parquet")


def draw(run_dir, rows, sizes, journal_path, **options):
    table = images_table(rows)
    probs = np.full((len(rows), 3), 1 / 3)
    return audit_files.draw_audits(
        run_dir, sizes, table, table["given_label"], probs, journal_path, class_names=NAMES, **options
    )


def test_a_run_knows_its_own_audit_and_refuses_that_of_another_model(tmp_path):
    rows, _ = make_split(200)
    write_predictions(tmp_path, rows)
    audit = draw(tmp_path, rows, {"test": 20}, tmp_path / "j.csv")["test"]
    assert (audit["predicted"] == rows["predicted"]).all()
    pd.testing.assert_frame_equal(audit_files.audits_of_run(tmp_path, "test"), audit)
    write_predictions(tmp_path, rows, sharpness=0.9)
    with pytest.raises(ValueError, match="An audit belongs to one model"):
        audit_files.audits_of_run(tmp_path, "test")


def test_val_is_drawn_evenly_for_its_thresholds_and_test_in_strata(tmp_path):
    rows = pd.concat([make_split(800, split=split, seed=i)[0] for i, split in enumerate(("val", "test"))])
    rows = rows.assign(sha256=[f"{i:064x}" for i in range(1600)], path=[f"{i}.jpg" for i in range(1600)])
    write_predictions(tmp_path, rows)
    found = draw(tmp_path, rows.reset_index(drop=True), {"val": 200, "test": 200}, tmp_path / "j.csv")
    assert set(found["val"]["stratum"]) == {"all"} and found["val"]["picked"].sum() == 200
    assert set(found["test"]["stratum"]) == {"agreement", "suspicious agreement", "disagreement"}
    larger = draw(tmp_path, rows.reset_index(drop=True), {"val": 300}, tmp_path / "j.csv")["val"]
    assert larger["picked"].sum() == 300 and larger.loc[found["val"]["picked"], "picked"].all()


def test_without_a_model_only_the_labels_of_train_are_audited(tmp_path):
    rows = pd.concat([make_split(300, split="train")[0], make_split(100)[0]], ignore_index=True)
    rows["sha256"] = [f"{i:064x}" for i in range(400)]
    found = draw(tmp_path, rows, {"test": 20, "train": 60}, tmp_path / "j.csv")
    assert set(found) == {"train"} and audit_files.audits_of_run(tmp_path, "test") is None
    assert abs(found["train"]["picked"].sum() - 60) <= 2 and found["train"]["split"].eq("train").all()


def test_an_audit_of_no_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"Audits are of train, val, test\. Received: valid"):
        draw(tmp_path, make_split(20)[0], {"valid": 5}, tmp_path / "j.csv")


def test_the_share_of_wrong_labels_is_found_for_all_classes_and_pairs(tmp_path):
    rows, true = make_split(2000, noise=0, split="train")
    wrong = (true == "dog") & (np.random.default_rng(1).random(2000) < 0.3)
    rows["label"] = np.where(wrong, "cat", true)
    audit = audit_files.freeze_audit(tmp_path, "train", rows, about="labels", budget=300)
    answer(tmp_path / "j.csv", audit, true)
    given = rows.set_index("path")["label"]
    found = audit_files.label_errors(audit, given, tmp_path / "j.csv", class_names=NAMES).set_index("name")
    assert found.loc["all labels", "low"] < wrong.mean() < found.loc["all labels", "high"]
    share = wrong.sum() / (rows["label"] == "cat").sum()
    assert found.loc["cat", "low"] < share < found.loc["cat", "high"]
    assert found.loc["cat → dog", "value"] == pytest.approx(found.loc["cat", "value"], abs=0.01)
    assert found.loc["emu", "value"] == 0


def test_pairs_come_from_the_sample_alone(tmp_path):
    rows, true = make_split(400, noise=0, split="train")
    audit = audit_files.freeze_audit(tmp_path, "train", rows, about="labels", budget=40)
    answer(tmp_path / "j.csv", audit, true)
    beside = audit[~audit["picked"]].head(5).assign(picked=True)
    answer(tmp_path / "j.csv", beside, ["emu" if label == "cat" else "cat" for label in beside["label"]])
    given = rows.set_index("path")["label"]
    found = audit_files.label_errors(audit, given, tmp_path / "j.csv", class_names=NAMES)
    assert found["truth"].eq("").all(), "what was found elsewhere is no random sample"


def test_an_audit_on_labels_that_review_corrected_is_not_flattered(tmp_path, monkeypatch):
    monkeypatch.setattr(intervals, "DRAWS", 400)
    errors, covered, naive = [], [], []
    for seed in range(30):
        rows, true = make_split(500, seed=seed, noise=0.2)
        learnt = (rows["label"] != true) & (np.random.default_rng(seed).random(500) < 0.5)
        rows["predicted"] = rows["predicted"].mask(learnt, rows["label"])  # a model that knows wrong labels by heart
        seen = rows["label"].ne(rows["predicted"]).to_numpy()
        rng = np.random.default_rng(1000 + seed)
        fresh = np.where(rng.random(500) < 0.95, true, rng.choice(NAMES, 500))
        again = rows.assign(
            label=np.where(seen, true, rows["label"]), reviewed=seen,
            predicted=np.where(rng.random(500) < 0.85, rows["predicted"], fresh),
        )  # fmt: skip
        (folder := tmp_path / str(seed)).mkdir()
        audit = freeze(folder, again, about="model 2", budget=60, seed=seed)
        verdict = pd.Series(np.where(audit["picked"], true, None))
        found = audit_accuracies(audit, verdict, seed=seed).set_index("name")
        truth = (again["predicted"] == true).mean()
        errors.append(found.loc["audited", "value"] - truth)
        covered.append(found.loc["audited", "low"] <= truth <= found.loc["audited", "high"])
        naive.append(found.loc["believing the labels", "value"] - truth)
    assert abs(np.mean(errors)) < 0.005 and np.mean(covered) >= 0.91 and np.mean(naive) > 0.02
