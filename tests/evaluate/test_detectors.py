"""Detectors as tables of scores, the audit that serves all of them, and when a lead is named."""

import numpy as np
import pandas as pd
import pytest

from nsfwlib import evaluate
from nsfwlib.evaluate.comparison import AGREEMENT, _rankings

NAMES = ["drawings", "neutral", "porn"]
SPACE = {"class_names": NAMES, "unsafe_classes": ["porn"]}


def world(n, skills, *, seed=0, noise=0.1):
    """Truth, pictures with labels that are wrong at random, and detectors of these skills."""
    rng, names = np.random.default_rng(seed), np.array(NAMES, object)
    true = rng.choice(names, n, p=[0.2, 0.5, 0.3])
    label = np.where(rng.random(n) < noise, rng.choice(names, n), true)
    images = pd.DataFrame({
        "path": [f"{i}.jpg" for i in range(n)], "sha256": [f"{i:064x}" for i in range(n)],
        "group": np.arange(n), "split": "test", "label": label,
    })  # fmt: skip
    found = {}
    for name, skill in skills.items():
        logits = rng.normal(size=(n, 3)) + skill * (true[:, None] == names)
        probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        found[name] = pd.DataFrame(probs, images["path"], NAMES).assign(unsafe_score=probs[:, 2])  # as it would be read
    return true, images, found


def answered(folder, true, images, found, **options):
    folder.mkdir(exist_ok=True)
    audit = evaluate.shared_audit(folder, images, found, **SPACE, **options)
    return audit, pd.Series(true, audit.index).where(audit["picked"], None)


def test_a_table_of_another_label_space_is_read_by_content_or_path_and_from_any_file(tmp_path):
    _, images, _ = world(6, {})
    table = pd.DataFrame(
        {"sha256": images["sha256"][::-1], "nsfw": np.linspace(0, 1, 6), "normal": np.linspace(1, 0, 6)}
    )
    table.to_csv(tmp_path / "a.csv", index=False)
    table.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    table.to_parquet(tmp_path / "a.parquet")
    for end in ("csv", "jsonl", "parquet"):
        found = evaluate.read_detector(
            tmp_path / f"a.{end}", images, mapping={"nsfw": "unsafe", "normal": "safe"}, **SPACE
        )
        assert list(found) == ["unsafe_score"] and list(found.index) == list(images["path"])
        assert np.allclose(found["unsafe_score"], np.linspace(1, 0, 6)), end


def test_a_table_of_all_classes_is_read_as_it_is_with_the_score_of_the_unsafe_ones():
    _, images, found = world(6, {"a": 2.0})
    table = found["a"][NAMES].reset_index()
    pd.testing.assert_frame_equal(evaluate.read_detector(table[::-1], images, **SPACE), found["a"])


def test_scores_that_do_not_sum_to_one_count_by_their_worst_label_and_maxima_over_frames_count():
    _, images, _ = world(2, {})
    table = pd.DataFrame({"path": images["path"], "gun": [0.6, 0.1], "blood": [0.7, 0.2], "frames": [3, 1]})
    to = {"gun": "unsafe", "blood": "unsafe"}
    assert evaluate.read_detector(table, images, mapping=to, **SPACE)["unsafe_score"].tolist() == [0.7, 0.2]
    table = pd.DataFrame(
        {"path": images["path"], "drawings": [0.5, 1], "neutral": [0.2, 0], "porn": [0.3, 0], "porn_max": [0.9, 0]}
    )
    assert evaluate.read_detector(table, images, **SPACE)["unsafe_score"].tolist() == [0.9, 0]


@pytest.mark.parametrize(
    ("change", "mapping", "sentence"),
    [
        ({}, {"nsfw": "unsafe"}, "Not in the mapping: ['sfw']"),
        ({}, {"nsfw": "unsafe", "sfw": "safe", "odd": ""}, "Not in the table: ['odd']"),
        ({}, {"nsfw": "bad", "sfw": "safe"}, "Received: {'nsfw': 'bad'}"),
        ({"nsfw": [1.5, 0, 0, 0]}, {"nsfw": "unsafe", "sfw": "safe"}, "scores in [0, 1]"),
        ({"path": list("abcd")}, {"nsfw": "unsafe", "sfw": "safe"}, "about other pictures: it has 0 of 4"),
        ({"nsfw_max": 1, "sfw_max": 1}, None, "Not in the mapping: ['nsfw', 'sfw']."),
    ],
)
def test_what_cannot_be_compared_is_a_sentence(change, mapping, sentence):
    _, images, _ = world(4, {})
    table = pd.DataFrame({"path": images["path"], "nsfw": [0.1, 0, 1, 0], "sfw": [0.9, 1, 0, 1]} | change)
    with pytest.raises(ValueError) as error:
        evaluate.read_detector(table, images, mapping=mapping, **SPACE)
    assert sentence in str(error.value)


def test_classes_called_safe_and_unsafe_are_classes_like_others(tmp_path):
    images = world(8, {})[1].assign(label=["safe", "unsafe"] * 4)
    table = pd.DataFrame({"path": images["path"], "safe": [0.9, 0.1] * 4, "unsafe": [0.1, 0.9] * 4})
    space = {"class_names": ["safe", "unsafe"], "unsafe_classes": ["unsafe"]}
    found = {"a": evaluate.read_detector(table, images, **space)}
    labels = images.set_index("path")["label"]
    assert not evaluate.is_wrong(found["a"], labels, unsafe_classes=["unsafe"]).any()
    audit = evaluate.shared_audit(tmp_path, images, found, budget=8, **space)
    rows = evaluate.comparable_rows(found, audit, audit["label"], class_names=["safe", "unsafe"])
    compared = evaluate.compare_detectors(found, rows, unsafe_classes=["unsafe"], prevalence=0.01)
    assert compared["class accuracy"].tolist() == [1] == compared["AUROC"].tolist()
    as_sides = {"class_names": ["unsafe", "worse", "x"], "unsafe_classes": ["worse", "unsafe"]}
    three = pd.DataFrame({"path": images["path"], "unsafe": 0.2, "worse": 0.3, "x": 0.5, "width": 100})
    assert np.allclose(evaluate.read_detector(three, images, **as_sides)[["unsafe", "unsafe_score"]], [0.2, 0.5])


def test_pictures_without_a_score_are_left_out_and_counted(tmp_path):
    true, images, found = world(80, {"a": 2.0, "b": 2.0})
    found["b"].iloc[:5] = np.nan
    audit, verdict = answered(tmp_path, true, images, found, budget=80)
    rows = evaluate.comparable_rows(found, audit, verdict, class_names=NAMES)
    assert len(rows) == 75 and "5 pictures are left out" in rows.attrs["note"]


def test_a_later_detector_only_adds_to_the_frozen_audit(tmp_path):
    true, images, found = world(600, {"a": 3.0, "b": 2.0})
    first, _ = answered(tmp_path, true, images, {"a": found["a"]}, budget=60)
    again, _ = answered(tmp_path, true, images, {"a": found["a"]}, budget=40)
    pd.testing.assert_frame_equal(first, again)
    later, _ = answered(tmp_path, true, images, found, budget=60)
    assert later["picked"].sum() > first["picked"].sum() and (later["picked"] | ~first["picked"]).all()
    with pytest.raises(ValueError, match="other pictures"):
        evaluate.shared_audit(tmp_path, images.head(50), {}, **SPACE)


def test_an_enlarged_audit_is_without_bias(tmp_path):
    true, images, found = world(500, {"a": 2.5, "b": 1.5})
    exact = {name: float((some[NAMES].idxmax(axis=1).to_numpy() == true).mean()) for name, some in found.items()}
    means = []
    for seed in range(40):
        folder = tmp_path / str(seed)
        answered(folder, true, images, {"a": found["a"]}, budget=50, seed=seed)
        audit, verdict = answered(folder, true, images, found, budget=50, seed=seed)
        rows = evaluate.comparable_rows(found, audit, verdict, class_names=NAMES)
        judged = rows[rows["weight"].gt(0)]
        right = [some.loc[judged.index, NAMES].idxmax(axis=1).eq(judged["label"]) for some in found.values()]
        means.append([np.average(one, weights=judged["weight"]) for one in right])
    off = np.mean(means, axis=0) - list(exact.values())
    assert (np.abs(off) < 3 * np.std(means, axis=0) / np.sqrt(40) + 1e-3).all(), off
    assert audit["stratum"].nunique() == 3 and audit["stratum"].eq(AGREEMENT).any()


def test_rankings_by_weights_are_those_of_scikit_learn(rng):
    from sklearn.metrics import average_precision_score, roc_auc_score

    score, weight = np.round(rng.random(200), 1), rng.exponential(size=200)
    unsafe = rng.random(200) < score
    found = _rankings(score, unsafe, weight[:, None], 0, cut=0.5, prevalence=0.1)
    assert found["AUROC"][0] == pytest.approx(roc_auc_score(unsafe, score, sample_weight=weight))
    assert found["AP"][0] == pytest.approx(average_precision_score(unsafe, score, sample_weight=weight))
    recall, fpr = (np.average(score[side] >= 0.5, weights=weight[side]) for side in (unsafe, ~unsafe))
    assert (found["recall"][0], found["FPR"][0]) == pytest.approx((recall, fpr))
    assert found["precision"][0] == pytest.approx(0.1 * recall / (0.1 * recall + 0.9 * fpr))


def test_numbers_of_the_comparison_are_in_intervals_that_hold_the_truth(tmp_path):
    true, images, found = world(800, {"a": 2.5, "sides only": 1.5})
    found["sides only"] = found["sides only"][["unsafe_score"]]
    audit, verdict = answered(tmp_path, true, images, found, budget=240)
    rows = evaluate.comparable_rows(found, audit, verdict, class_names=NAMES)
    table = evaluate.compare_detectors(found, rows, unsafe_classes=["porn"], prevalence=0.01).set_index("detector")
    assert table.loc["sides only", ["class accuracy", "balanced accuracy"]].isna().all()
    accuracy = (found["a"][NAMES].idxmax(axis=1).to_numpy() == true).mean()
    assert table.loc["a", "class accuracy_low"] < accuracy < table.loc["a", "class accuracy_high"]
    for name, some in found.items():
        exact = _rankings(
            some["unsafe_score"].to_numpy(), true == "porn", np.ones((800, 1)), 0, cut=0.5, prevalence=0.01
        )
        for measure, (value,) in exact.items():
            assert table.loc[name, f"{measure}_low"] <= value <= table.loc[name, f"{measure}_high"], (name, measure)
    assert table.index[0] == "a" and table.loc["a", "recall at FPR 0.1 %_low"] == 0, "too few safe pictures to know"


def test_a_detector_that_flags_nothing_has_no_precision(tmp_path):
    true, images, found = world(200, {"a": 2.0})
    found["mute"] = found["a"][["unsafe_score"]] * 0.1
    audit, verdict = answered(tmp_path, true, images, found, budget=200)
    rows = evaluate.comparable_rows(found, audit, verdict, class_names=NAMES)
    table = evaluate.compare_detectors(found, rows, unsafe_classes=["porn"], prevalence=0.01).set_index("detector")
    assert table.loc["mute", "recall"] == 0 and np.isnan(table.loc["mute", "precision"])
    assert table.loc["a", "precision_low"] < table.loc["a", "precision"] < table.loc["a", "precision_high"]


def test_a_real_lead_is_named(tmp_path):
    true, images, found = world(800, {"weak": 1.0, "strong": 3.0})
    audit, verdict = answered(tmp_path, true, images, found, budget=200)
    rows = evaluate.comparable_rows(found, audit, verdict, class_names=NAMES)
    for measure in ("AUROC", "accuracy", "balanced accuracy"):
        table = evaluate.differences_to_best(found, rows, unsafe_classes=["porn"], measure=measure)
        assert table["detector"].tolist() == ["strong", "weak"] and table["p"].iloc[1] < 0.01
        assert "strong leads weak" in table["sentence"].iloc[1]


@pytest.mark.parametrize(("count", "worlds"), [(2, 100), (4, 50)])
def test_no_difference_is_shown_where_there_is_none(tmp_path, count, worlds):
    wrongly = dict.fromkeys(("AUROC", "accuracy"), 0)
    for seed in range(1000, 1000 + worlds):
        true, images, found = world(250, {f"d{i}": 2.0 for i in range(count)}, seed=seed)
        audit, verdict = answered(tmp_path / str(seed), true, images, found, budget=100, seed=seed)
        rows = evaluate.comparable_rows(found, audit, verdict, class_names=NAMES)
        for measure in wrongly:
            table = evaluate.differences_to_best(found, rows, unsafe_classes=["porn"], measure=measure, seed=seed)
            wrongly[measure] += table["sentence"].str.contains(" leads ").any()
    assert max(wrongly.values()) <= 0.06 * worlds, wrongly
