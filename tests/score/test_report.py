import json
import zlib

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from nsfwlib import evaluate, runs
from nsfwlib.data import images
from nsfwlib.demo import shipped
from nsfwlib.plots import evaluation
from nsfwlib.review import queues
from nsfwlib.review.session import ReviewSession
from nsfwlib.score import report

NAMES = ["neutral", "porn", "sexy"]


@pytest.fixture
def table():
    """Two stills, an animation with one bad frame, a copy, and a broken file."""
    probs = np.array([[0.9, 0.06, 0.04], [0.1, 0.7, 0.2], [0.7, 0.2, 0.1], [0.1, 0.7, 0.2], [np.nan] * 3])
    highest = probs.copy()
    highest[2] = [0.95, 0.8, 0.3]
    rows = pd.DataFrame(probs, columns=NAMES)
    rows[[f"{name}_max" for name in NAMES]] = highest
    return rows.assign(
        path=["safe.jpg", "bad.jpg", "moving.gif", "copy.jpg", "broken.jpg"],
        sha256=["a" * 64, "b" * 64, "c" * 64, "b" * 64, "d" * 64],
        predicted=["neutral", "porn", "neutral", "porn", ""],
        problem=["", "", "", "", "damaged"],
    )


@pytest.fixture
def score(table):
    return report.unsafe_scores(table, unsafe_classes=["porn", "sexy"])


def test_the_score_sums_the_unsafe_classes_and_one_bad_frame_is_enough(score):
    assert np.allclose(score, [0.1, 0.9, 1.0, 0.9, np.nan], equal_nan=True)


@pytest.mark.parametrize("asked", [["hentai"], []])
def test_unsafe_classes_that_are_none_of_the_models_are_named(table, asked):
    with pytest.raises(ValueError, match=r"must be some of neutral, porn, sexy"):
        report.unsafe_scores(table, unsafe_classes=asked)


def test_thresholds_are_those_of_the_models_run(tmp_path):
    points = [
        {"wish": "recall ≥ 0.95", "prevalence": 0.5, "threshold": 0.2, "note": ""},
        {"wish": "recall ≥ 0.95", "prevalence": 0.1, "threshold": 0.2, "note": ""},
        {"wish": "precision ≥ 0.9", "prevalence": 0.1, "threshold": None, "note": "no threshold"},
    ]
    (tmp_path / "metrics.json").write_text(json.dumps({"operating_points": points}))
    found = report.chosen_thresholds(tmp_path / "metrics.json", otherwise=[0.5], unsafe_classes=["porn"])
    assert found[["wish", "threshold"]].values.tolist() == [["recall ≥ 0.95", 0.2]]


def test_thresholds_chosen_in_another_precision_say_so(tmp_path, recwarn):
    unsafe, score = np.arange(80) % 2 == 0, np.linspace(0, 1, 80)
    points = evaluate.operating_points(unsafe, score, validation=(unsafe, score), wishes=[("recall", 0.5)])
    runs.write_json({"operating_points": points.to_dict("records")}, tmp_path / "metrics.json")
    assert (
        len(report.chosen_thresholds(tmp_path / "metrics.json", otherwise=[], unsafe_classes=["porn"])) and not recwarn
    )
    with pytest.warns(UserWarning, match="in float32, these are in bfloat16"):
        report.chosen_thresholds(tmp_path / "metrics.json", otherwise=[], unsafe_classes=["porn"], precision="bfloat16")


def test_thresholds_that_flag_other_classes_are_not_used(tmp_path):
    points = [{"wish": "recall ≥ 0.95", "prevalence": 0.5, "threshold": 0.2, "note": ""}]
    runs.write_json({"operating_points": points, "unsafe_classes": ["porn"]}, tmp_path / "metrics.json")
    with pytest.warns(UserWarning, match=r"has thresholds for \['porn'\]: not for \['porn', 'sexy'\]"):
        found = report.chosen_thresholds(tmp_path / "metrics.json", otherwise=[0.5], unsafe_classes=["porn", "sexy"])
    assert found["threshold"].tolist() == [0.5]


def test_without_a_run_the_thresholds_asked_for_are_used(tmp_path):
    found = report.chosen_thresholds(tmp_path / "none.json", otherwise=[0.5, 0.9], unsafe_classes=["porn"])
    assert found["threshold"].tolist() == [0.5, 0.9]


def test_counts_leave_out_what_has_no_score(score):
    points = pd.DataFrame({"wish": "x", "prevalence": np.nan, "threshold": [0.05, 0.85, 0.95]})
    counts = report.counts_above(score, points)
    assert counts["flagged"].tolist() == [4, 3, 1] and counts["share"].tolist() == [1.0, 0.75, 0.25]


def test_the_queue_shows_each_content_once_highest_first(table, score):
    queue = queues.flagged_queue(table, score, threshold=0.5)
    assert queue["path"].tolist() == ["moving.gif", "bad.jpg"]
    assert queues.flagged_queue(table, score, threshold=2.0, least=1)["path"].tolist() == ["moving.gif"]
    assert len(queues.flagged_queue(table, score, threshold=0.0, most=2)) == 2


def test_decisions_on_flagged_files_go_into_the_journal_by_content(table, score, tmp_path):
    queue = queues.flagged_queue(table, score, threshold=0.5)
    session = ReviewSession(queue, tmp_path / "journal.csv", class_names=NAMES)
    session.decide("bad.jpg", "sexy")
    line = pd.read_csv(tmp_path / "journal.csv").iloc[-1]
    assert (line["sha256"], line["decision"]) == ("b" * 64, "sexy")


def test_the_histogram_counts_every_score_and_marks_every_threshold(score):
    points = pd.DataFrame({"wish": ["a", "b"], "prevalence": np.nan, "threshold": [0.5, 0.9]})
    ax = evaluation.plot_score_histogram(score, points=points)
    assert sum(patch.get_height() for patch in ax.patches) == 4
    assert [line.get_xdata()[0] for line in ax.lines] == [0.5, 0.9]
    assert "4 files" in ax.get_title(loc="left")
    unsure = evaluation.plot_score_histogram(
        score, points=points.assign(note="Cannot be promised"), ax=plt.subplots()[1]
    )
    assert all("(no promise)" in text.get_text() for text in unsure.get_legend().get_texts())
    empty = evaluation.plot_score_histogram(score[:0], ax=plt.subplots()[1])
    assert "no file was scored" in [text.get_text() for text in empty.texts]


def test_the_shipped_pictures_can_all_be_read(tmp_path):
    folder = shipped.shipped_pictures(tmp_path / "pictures")
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) >= 10 and len({zlib.crc32(path.read_bytes()) for path in files}) == len(files)
    for path in files:
        images.load_image(path, size=8)


def test_thumbnails_are_blurred_and_a_missing_file_is_white(tmp_path, rng):
    (tmp_path / "a.jpg").write_bytes(images.encode_jpeg(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)))
    noisy, missing = report.thumbnails(pd.DataFrame({"path": ["a.jpg", "gone.jpg"]}), tmp_path)
    assert noisy.std() < 15 and (missing == 255).all()
