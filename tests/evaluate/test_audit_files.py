"""Frozen audits: drawn once, never silently again, answered blind, and what they then say."""

import numpy as np
import pandas as pd
import pytest

from nsfwlib import runs
from nsfwlib.evaluate import audit_files
from nsfwlib.evaluate.audit import audited_confusion
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
            "suspicion": np.where(label == true, rng.beta(1, 4, n), rng.beta(3, 2, n)),
            "reviewed": False,
        }
    )
    return rows, true


def answer(path, audit, true, *, picked=True):
    """Write the truth of the picked rows to a journal."""
    true = pd.Series(true, audit.index)
    rows = audit[audit["picked"]] if picked else audit
    lines = [
        {"sha256": row.sha256, "path": row.path, "given_label": row.label, "decision": true[row.Index]}
        for row in rows.itertuples()
    ]
    journal.append_decisions(path, lines)


def freeze(folder, rows, about="model 1", **options):
    return audit_files.freeze_audit(folder, "test", rows, about=about, **options)


def test_an_audit_is_drawn_once_and_says_of_what(tmp_path):
    rows, _ = make_split()
    first = freeze(tmp_path, rows, agreements=40)
    again = freeze(tmp_path, rows.assign(suspicion=0.5, label="cat"), agreements=40, seed=9)
    pd.testing.assert_frame_equal(first, again)
    pd.testing.assert_frame_equal(first, audit_files.load_audit(tmp_path, "test"))
    record = runs.read_json(tmp_path / "audit_test.json")
    assert record["about"] == "model 1" and record["seed"] == 0 and sum(record["strata"].values()) == len(rows)
    assert sum(record["picked"].values()) == first["picked"].sum()
    assert list(first.columns) == list(audit_files.AUDIT_COLUMNS)


def test_an_audit_that_somebody_began_is_never_drawn_again_for_another_model(tmp_path):
    rows, _ = make_split()
    first = freeze(tmp_path, rows)
    begun = rows.assign(reviewed=rows["sha256"].isin(first.loc[first["picked"], "sha256"].head(1)))
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
    small = freeze(tmp_path, rows, agreements=40)
    large = freeze(tmp_path, rows, agreements=90)
    assert large["picked"].sum() == small["picked"].sum() + 50 and large.loc[small["picked"], "picked"].all()
    pd.testing.assert_frame_equal(freeze(tmp_path, rows, agreements=10), large)
    assert "enlarged" in runs.read_json(tmp_path / "audit_test.json")


def test_what_was_reviewed_before_is_a_stratum_of_its_own_and_is_not_asked_for(tmp_path):
    rows, true = make_split()
    rows["reviewed"] = np.arange(len(rows)) < 200
    audit = freeze(tmp_path, rows)
    assert audit.loc[rows["reviewed"], "stratum"].eq("reviewed before").all()
    assert not set(audit_files.audit_queue(audit)["sha256"]) & set(rows.loc[rows["reviewed"], "sha256"])
    path = tmp_path / "j.csv"
    answer(path, audit.assign(picked=audit["picked"] | rows["reviewed"]), true)
    verdict = audit_files.audit_truth(audit, path, class_names=NAMES)
    assert verdict[rows["reviewed"]].notna().all()
    assert "200 were reviewed before" in audit_files.audit_progress(audit, verdict)


def test_the_session_gives_nothing_away_and_its_beginning_is_a_sample_of_all_strata(tmp_path):
    audit = freeze(tmp_path, make_split()[0], agreements=100)
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
    audit = freeze(tmp_path, rows, agreements=150)
    answer(tmp_path / "j.csv", audit, true)
    verdict = audit_files.audit_truth(audit, tmp_path / "j.csv", class_names=NAMES)
    table = audit_files.audit_accuracies(audit, verdict, planted=true).set_index("name")
    truth = (rows["predicted"] == true).mean()
    assert table.loc["planted truth", "value"] == pytest.approx(truth)
    assert table.loc["audited", "low"] < truth < table.loc["audited", "high"]
    assert table.loc["believing the labels", "high"] < truth
    assert table.loc["audited", "pictures"] == audit["picked"].sum()


def test_enlarging_an_audit_after_a_look_does_not_bias_it(tmp_path):
    errors = []
    for seed in range(60):
        rows, true = make_split(500, seed=seed)
        folder = tmp_path / str(seed)
        folder.mkdir()
        freeze(folder, rows, agreements=40, seed=seed)
        audit = freeze(folder, rows, agreements=120, seed=seed)
        verdict = pd.Series(np.where(audit["picked"], true, None))
        found = audit_files.audit_accuracies(audit, verdict).set_index("name").loc["audited", "value"]
        errors.append(found - (rows["predicted"] == true).mean())
    assert abs(np.mean(errors)) < 0.004


def test_a_verdict_is_a_class_or_drop_and_keep_means_the_label_it_confirmed(tmp_path):
    path = tmp_path / "j.csv"
    for i, decision in enumerate(["keep", "dog", "drop", "unsure", "escalate"]):
        journal.append_decisions(path, {"sha256": str(i), "given_label": "cat", "decision": decision})
    found = audit_files.audit_verdicts(path, class_names=NAMES)
    assert found.to_dict() == {"0": "cat", "1": "dog", "2": "drop"}


def test_a_dropped_picture_counts_against_accuracy_and_is_in_no_row_of_the_matrix(tmp_path):
    rows, true = make_split(200)
    true[:20] = "drop"
    audit = freeze(tmp_path, rows, agreements=200)
    answer(tmp_path / "j.csv", audit, true)
    verdict = audit_files.audit_truth(audit, tmp_path / "j.csv", class_names=NAMES)
    assert audit_files.audit_accuracies(audit, verdict).set_index("name").loc["audited", "value"] == pytest.approx(
        (rows["predicted"] == true).mean()
    )
    matrix, _ = audited_confusion(verdict, audit["predicted"], audit, class_names=NAMES)
    assert matrix.sum() == pytest.approx(180)


def test_costs_are_told_before_anyone_looks_and_sizes_beyond_the_last_come_once(tmp_path):
    audit = freeze(tmp_path, make_split(150)[0])
    plan = audit_files.audit_costs({"test": audit})
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


def test_without_a_model_only_the_labels_of_train_are_audited_with_a_sample_of_disagreements(tmp_path):
    rows = pd.concat([make_split(300, split="train")[0], make_split(100)[0]], ignore_index=True)
    rows["sha256"] = [f"{i:064x}" for i in range(400)]
    found = draw(tmp_path, rows, {"test": 20, "train": 60}, tmp_path / "j.csv")
    assert set(found) == {"train"} and audit_files.audits_of_run(tmp_path, "test") is None
    assert found["train"]["picked"].sum() == 60 and found["train"]["split"].eq("train").all()
    picked = found["train"].loc[found["train"]["picked"], "stratum"]
    assert picked.eq("disagreement").sum() == 20


def test_an_audit_of_no_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"Audits are of train, val, test\. Received: valid"):
        draw(tmp_path, make_split(20)[0], {"valid": 5}, tmp_path / "j.csv")


def test_the_share_of_wrong_labels_is_found_for_all_classes_and_pairs(tmp_path):
    rows, true = make_split(2000, noise=0, split="train")
    wrong = (true == "dog") & (np.random.default_rng(1).random(2000) < 0.3)
    rows["label"] = np.where(wrong, "cat", true)
    audit = audit_files.freeze_audit(tmp_path, "train", rows, about="labels", agreements=300, disagreements=150)
    answer(tmp_path / "j.csv", audit, true)
    given = rows.set_index("path")["label"]
    found = audit_files.label_errors(audit, given, tmp_path / "j.csv", class_names=NAMES).set_index("name")
    assert found.loc["all labels", "low"] < wrong.mean() < found.loc["all labels", "high"]
    share = wrong.sum() / (rows["label"] == "cat").sum()
    assert found.loc["cat", "low"] < share < found.loc["cat", "high"]
    assert found.loc["cat → dog", "value"] == found.loc["cat", "value"] and found.loc["emu", "value"] == 0


def test_pairs_come_from_the_sample_alone(tmp_path):
    rows, true = make_split(400, noise=0, split="train")
    audit = audit_files.freeze_audit(tmp_path, "train", rows, about="labels", agreements=40, disagreements=20)
    answer(tmp_path / "j.csv", audit, true)
    beside = audit[~audit["picked"]].head(5).assign(picked=True)
    answer(tmp_path / "j.csv", beside, ["emu" if label == "cat" else "cat" for label in beside["label"]])
    given = rows.set_index("path")["label"]
    found = audit_files.label_errors(audit, given, tmp_path / "j.csv", class_names=NAMES)
    assert found["truth"].eq("").all(), "what was found elsewhere is no random sample"


def test_a_second_audit_on_labels_that_the_first_corrected_is_not_flattered(tmp_path):
    errors, covered, naive = [], [], []
    for seed in range(60):
        rows, true = make_split(500, seed=seed, noise=0.2)
        learnt = (rows["label"] != true) & (np.random.default_rng(seed).random(500) < 0.5)
        rows["predicted"] = rows["predicted"].mask(learnt, rows["label"])  # a model that knows wrong labels by heart
        (first := tmp_path / f"{seed}a").mkdir()
        seen = freeze(first, rows, agreements=60, seed=seed)["picked"].to_numpy()
        rng = np.random.default_rng(1000 + seed)
        fresh = np.where(rng.random(500) < 0.95, true, rng.choice(NAMES, 500))
        again = rows.assign(
            label=np.where(seen, true, rows["label"]), reviewed=seen,
            predicted=np.where(rng.random(500) < 0.85, rows["predicted"], fresh),
        )  # fmt: skip
        (second := tmp_path / f"{seed}b").mkdir()
        audit = freeze(second, again, about="model 2", agreements=60, seed=seed)
        verdict = pd.Series(np.where(audit["picked"] | seen, true, None))
        found = audit_files.audit_accuracies(audit, verdict, seed=seed).set_index("name")
        truth = (again["predicted"] == true).mean()
        errors.append(found.loc["audited", "value"] - truth)
        covered.append(found.loc["audited", "low"] <= truth <= found.loc["audited", "high"])
        naive.append(found.loc["believing the labels", "value"] - truth)
    assert abs(np.mean(errors)) < 0.005 and np.mean(covered) >= 0.91 and np.mean(naive) > 0.02
