"""Figures carry the numbers that they were given: texts and arrays are read, never pixels."""

import inspect
import json
import runpy
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from nsfwlib import evaluate, plots, runs
from nsfwlib.plots import confusion, data, evaluation, style
from nsfwlib.plots.data import plot_noise_matrix, plot_scores

NAMES = ["drawings", "hentai", "neutral"]
PUBLISHED = Path(__file__).parents[2] / "_art" / "published_confusion.json"


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def images():
    return pd.DataFrame({
        "path": [f"{i}.jpg" for i in range(6)],
        "given_label": ["drawings", "drawings", "drawings", "hentai", "hentai", "neutral"],
        "split": ["train", "val", "test", "train", "", "test"],
        "width": [100, 200, 300, 400, 0, 600],
        "height": [100, 100, 300, 200, 0, 600],
        "format": ["JPEG", "PNG", "JPEG", "GIF", "", "JPEG"],
        "problem": ["", "", "", "", "truncated", ""],
    })  # fmt: skip


@pytest.fixture
def two_sides():
    rng = np.random.default_rng(0)
    unsafe = rng.random(400) < 0.5
    return unsafe, 1 / (1 + np.exp(-rng.normal(np.where(unsafe, 1.5, -1.5), 1.2)))


def texts(ax):
    return [t.get_text() for t in ax.texts]


def ticks(labels):
    return [t.get_text() for t in labels]


def drawn(ax, label):
    return next(line for line in ax.lines if line.get_label() == label)


# ── What is in the folders ──────────────────────────────────────────────────────────────────────


def test_counts_show_every_image_of_every_class_once(images):
    ax = data.plot_counts(images)
    assert sum(bar.get_width() for bar in ax.patches) == len(images)
    assert [t.strip() for t in texts(ax)] == ["3", "2", "1"]
    assert ticks(ax.get_legend().get_texts()) == ["train", "val", "test", "left out"]


def test_counts_work_before_splits_are_drawn(images):
    ax = data.plot_counts(images.assign(split=""))
    assert ticks(ax.get_legend().get_texts()) == ["usable", "left out"]


def test_problems_name_the_reason_and_the_class(images):
    ax = data.plot_problems(images)
    assert ticks(ax.get_yticklabels()) == ["truncated  (1)"] and ticks(ax.get_xticklabels()) == ["hentai"]
    assert ax.get_title(loc="left") == "1 of 6 images left out"


def test_problems_of_a_clean_folder_say_none(images):
    assert texts(data.plot_problems(images[images["problem"].eq("")])) == ["none"]


def test_formats_come_most_frequent_first_and_leave_unknown_ones_out(images):
    ax = data.plot_formats(images)
    assert ticks(ax.get_yticklabels())[0] == "JPEG  (3)" and len(ax.get_yticklabels()) == 3
    assert ax.get_title(loc="left") == "File formats of 5 images"


def test_sizes_draw_one_point_an_image_with_a_size(images):
    left, right = data.plot_sizes(images).axes
    assert sorted(x for dots in left.collections for x in dots.get_offsets()[:, 0]) == [100, 200, 300, 400, 600]
    assert ticks(right.get_yticklabels()) == NAMES


def test_sizes_of_many_images_are_thinned_evenly(images):
    many = pd.concat([images] * 100, ignore_index=True)
    left = data.plot_sizes(many, most=50).axes[0]
    assert 45 <= sum(len(dots.get_offsets()) for dots in left.collections) <= 50


def test_sizes_without_any_image_say_so(images):
    assert "no image with a known size" in texts(data.plot_sizes(images[images["width"].eq(0)]).axes[0])


def test_contact_sheet_shows_each_thumbnail_under_its_title():
    pictures = [np.full((20, 30, 3), i, np.uint8) for i in range(5)]
    fig = data.plot_contact_sheet(pictures, titles=list("abcde"), columns=3)
    shown = [ax for ax in fig.axes if ax.images]
    assert [int(ax.images[0].get_array()[0, 0, 0]) for ax in shown] == [0, 1, 2, 3, 4]
    assert [ax.get_title() for ax in shown] == list("abcde") and len(fig.axes) == 6


@pytest.mark.parametrize("shape", [(3000, 8), (8, 3000)])
def test_a_strip_keeps_within_its_square(shape):
    strip = [np.zeros((*shape, 3), np.uint8)]
    for fig in (data.plot_contact_sheet(strip, titles=["a"], title="b"), data.plot_heat_maps(strip, [np.eye(4)])):
        fig.canvas.draw()
        assert max(fig.get_size_inches()) < 2


def test_contact_sheet_of_nothing_says_so():
    assert texts(data.plot_contact_sheet([]).axes[0]) == ["no images"]


def test_contact_sheet_refuses_titles_of_another_number():
    with pytest.raises(ValueError, match=r"one title a thumbnail: 2\. Received: 1"):
        data.plot_contact_sheet([np.zeros((2, 2, 3), np.uint8)] * 2, titles=["a"])


# ── Training ────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def history():
    return pd.DataFrame({
        "stage": ["head"] * 3 + ["fine-tuning"] * 2, "epoch": [0, 1, 2, 0, 1], "loss": [1.5, 1.0, 0.8, 0.7, 0.5],
        "accuracy": [0.5, 0.6, 0.7, 0.75, 0.8], "val_loss": [1.4, 1.1, 0.9, 0.85, 0.95],
        "val_accuracy": [0.5, 0.55, 0.6, 0.7, 0.66], "learning_rate": 1e-3,
    })  # fmt: skip


def test_history_runs_through_all_stages_and_rings_the_lowest_validation_loss(history):
    loss, accuracy, rate = evaluation.plot_history(history).axes
    assert rate.get_yscale() == "log" and len(rate.lines[0].get_ydata()) == len(history)
    assert drawn(loss, "validation").get_xydata().tolist() == [[1, 1.4], [2, 1.1], [3, 0.9], [4, 0.85], [5, 0.95]]
    assert drawn(accuracy, "there: 70.0%").get_xydata().tolist() == [[4, 0.7]]
    assert texts(loss) == ["head", "fine-tuning"]


def test_a_learning_curve_has_a_dot_a_fit_and_a_mean_a_size():
    curve = pd.DataFrame({"images": [10, 100, 11], "repeat": [0, 0, 1], "accuracy": [0.5, 0.9, 0.7]})
    dots, mean = evaluation.plot_learning_curve(curve).lines
    assert len(dots.get_xdata()) == 3
    assert list(mean.get_ydata()) == [0.6, 0.9]


def test_history_without_validation_is_drawn_too(history):
    axes = evaluation.plot_history(history.assign(val_loss=np.nan, val_accuracy=np.nan)).axes
    assert ticks(axes[0].get_legend().get_texts()) == ["training", "validation"]


# ── Confusion ───────────────────────────────────────────────────────────────────────────────────


def test_confusion_writes_the_share_of_each_row_and_the_support():
    ax = confusion.plot_confusion(np.array([[9, 1, 0], [0, 4, 0], [0, 0, 0]]), class_names=NAMES)
    assert texts(ax) == ["90%", "10%", "·", "·", "100%", "·", "–", "–", "–"]
    assert ticks(ax.get_yticklabels()) == ["drawings\n10", "hentai\n4", "neutral\n0"]
    assert ax.get_title(loc="left") == "Accuracy 92.9% of 14 images"


def test_confusion_colours_follow_the_shares():
    ax = confusion.plot_confusion(np.array([[9, 1], [2, 2]]), class_names=NAMES[:2])
    assert ax.collections[0].get_array().ravel().tolist() == [0.9, 0.1, 0.5, 0.5]


def test_confusion_of_counts_writes_counts():
    ax = confusion.plot_confusion(np.array([[1234, 1], [0, 4]]), class_names=NAMES[:2], normalise=False)
    assert texts(ax) == ["1,234", "1", "·", "4"]


def test_confusion_writes_the_interval_under_each_share():
    names, matrix = NAMES[:2], np.array([[98, 2], [0, 100]])
    labels, predicted = np.repeat(names, 100), np.repeat(names, [98, 102])
    cells = evaluate.confusion_intervals(labels, predicted, class_names=names)
    ax = confusion.plot_confusion(matrix, class_names=names, intervals=cells)
    assert texts(ax) == ["98%\n94–100", "2%\n0.4–6.3", "·\n0.0–2.5", "100%\n98–100"]


def test_published_shares_are_drawn_as_published():
    published = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    first = published["matrices"][0]
    ax = confusion.plot_confusion(np.array(first["shares"]), class_names=published["class_names"], title=first["name"])
    assert texts(ax)[:5] == ["90%", "9%", "1%", "·", "·"] and texts(ax)[18] == "85%"
    assert ax.get_title(loc="left") == "published, 90 %"


def test_published_matrices_have_a_source_and_rows_that_sum_to_one():
    published = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    assert "GantMan/nsfw_model" in published["source"] and len(published["matrices"]) == 2
    for record in published["matrices"]:
        assert np.array(record["shares"]).sum(axis=1) == pytest.approx(np.ones(5), abs=0.0101)
        assert np.trace(record["shares"]) / 5 == pytest.approx(record["accuracy"], abs=0.02)


def test_confusion_of_another_size_than_its_classes_is_refused():
    with pytest.raises(ValueError, match=r"3 × 3.*Received: shape \(2, 2\)"):
        confusion.plot_confusion(np.eye(2, dtype=int), class_names=NAMES)


def test_confusion_pair_shows_both_accuracies():
    fig = confusion.plot_confusion_pair(np.array([[6, 4], [0, 10]]), np.array([[9, 1], [0, 10]]), class_names=NAMES[:2])
    assert [ax.get_title(loc="left") for ax in fig.axes] == [
        "Before\nAccuracy 80.0% of 20 images", "After\nAccuracy 95.0% of 20 images",
    ]  # fmt: skip


def test_noise_matrix_shades_only_what_is_wrong():
    noise = pd.DataFrame([[90.0, 10.0], [0.2, 99.8]], index=["a", "b"], columns=["a", "b"])
    ax = plot_noise_matrix(noise)
    assert texts(ax) == ["90", "10", "·", "100"]
    assert ax.collections[0].get_array().ravel().tolist() == [0, 10, 0.2, 0]
    assert ax.get_title(loc="left") == "About 10 of 200 labels seem wrong (5.1%)"


# ── Suspicion ───────────────────────────────────────────────────────────────────────────────────


def test_scores_fall_from_the_most_suspect_and_show_the_cut():
    issues = pd.DataFrame({"score": [0.1, 0.9, np.nan, 0.5], "is_issue": [False, True, False, False]})
    ax = plot_scores(issues)
    assert ax.lines[0].get_xydata().tolist() == [[1, 0.9], [2, 0.5], [3, 0.1]]
    assert ticks(ax.get_legend().get_texts()) == ["suspected: 1"]


def test_scores_without_any_score_say_so():
    issues = pd.DataFrame({"score": [np.nan], "is_issue": [False]})
    assert texts(plot_scores(issues)) == ["no label was scored"]


def test_feature_map_draws_each_class():
    ax = data.plot_feature_map(np.arange(8.0).reshape(4, 2), ["a", "b", "a", "b"])
    assert ticks(ax.get_legend().get_texts()) == ["a (2)", "b (2)"]
    assert ax.collections[1].get_offsets().tolist() == [[2, 3], [6, 7]]


# ── Evaluation ──────────────────────────────────────────────────────────────────────────────────


def test_intervals_write_each_value_and_leave_unknown_ones_open():
    table = pd.DataFrame({
        "name": ["naive", "audited", "none"], "value": [0.81, 0.885, np.nan], "low": [0.78, 0.85, 0.0],
        "high": [0.84, 0.9, 1.0],
    })  # fmt: skip
    ax = evaluation.plot_intervals(table, title="Accuracy")
    assert texts(ax) == ["81.0%", "88.5%", "unknown"] and ticks(ax.get_yticklabels()) == ["naive", "audited", "none"]
    assert ax.collections[0].get_segments()[0][:, 0].tolist() == [0.78, 0.84]


def test_class_scores_have_a_panel_a_score_and_the_support():
    labels = np.array(NAMES * 40, dtype=object)
    probs = np.tile(np.eye(3) * 0.8 + 0.0667, (40, 1))
    fig = evaluation.plot_class_scores(evaluate.scores(labels, probs, class_names=NAMES))
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["Precision", "Recall", "F1", "Average precision"]
    assert ticks(fig.axes[0].get_yticklabels()) == ["drawings  (40)", "hentai  (40)", "neutral  (40)"]


def test_class_scores_say_where_there_is_no_image():
    probs = np.tile([0.8, 0.1, 0.1], (40, 1))
    table = evaluate.scores(["drawings"] * 40, probs, class_names=NAMES)
    assert texts(evaluation.plot_class_scores(table).axes[1]) == ["100.0%", "unknown", "unknown"]


def test_calibration_draws_only_bins_with_images():
    labels, probs = np.array(["a", "a", "b"]), np.array([[0.9, 0.1], [0.6, 0.4], [0.1, 0.9]])
    table = evaluate.calibration_table(labels, probs, class_names=["a", "b"])
    ax = evaluation.plot_calibration({"raw": table})
    dots = ax.collections[-1].get_offsets()
    assert dots[:, 1].tolist() == [1, 1] and dots[:, 0].tolist() == pytest.approx([0.6, 0.9], abs=0.01)


def test_curves_carry_the_computed_numbers(two_sides):
    curve = evaluate.threshold_curve(*two_sides)
    ax = evaluation.plot_precision_recall(curve)
    assert ax.lines[0].get_ydata().tolist() == curve["precision"].tolist()
    roc = evaluation.plot_roc(curve)
    assert roc.lines[0].get_xdata().tolist() == curve["fpr"].tolist()


def test_curves_of_one_side_only_say_what_they_need(two_sides):
    unsafe, score = two_sides
    curve = evaluate.threshold_curve(unsafe[unsafe], score[unsafe])
    assert "needs safe and unsafe images" in texts(evaluation.plot_roc(curve))


def test_threshold_figure_writes_the_counts_of_its_point(two_sides):
    point = evaluate.at_threshold(*two_sides, 0.7, prevalence=0.01).iloc[0]
    left, right = evaluation.plot_threshold(evaluate.threshold_curve(*two_sides), point).axes
    counts = [t.split("(")[0].strip() for t in texts(right)][1:]
    assert counts == [f"{point['missed']:,.0f}", f"{point['false_alarms']:,.0f}"]
    assert left.get_title(loc="left") == "Threshold 0.700" and "1% of uploads unsafe" in right.get_title(loc="left")


def test_a_person_between_two_thresholds_is_drawn_with_what_they_look_at(two_sides):
    point = evaluate.at_threshold(*two_sides, 0.7, prevalence=0.01, review_from=0.4).iloc[0]
    left, right = evaluation.plot_threshold(evaluate.threshold_curve(*two_sides), point).axes
    assert left.get_title(loc="left") == "Threshold 0.700, a person from 0.400"
    assert texts(right)[1].strip().startswith(f"{point['reviewed']:,.0f} ({point['reviewed_low']:,.0f}–")


def test_slices_show_the_worst_first_and_fill_those_that_differ():
    attributes = pd.DataFrame({"source": np.repeat(["web", "scan"], 200), "even": np.tile(["x", "y"], 200)})
    right = np.r_[np.arange(200) % 20 > 0, np.arange(200) % 3 > 0]
    ax = evaluation.plot_slices(evaluate.accuracy_by_slice(attributes, right))
    assert ticks(ax.get_yticklabels())[0] == "source: scan  (200)"
    assert drawn(ax, "differs (q ≤ 0.05)").get_xdata().tolist() == pytest.approx([133 / 200, 190 / 200])


def test_slices_too_small_for_a_conclusion_say_so():
    table = evaluate.accuracy_by_slice(pd.DataFrame({"source": ["a", "b"] * 5}), [True] * 10)
    assert texts(evaluation.plot_slices(table)) == ["no slice has enough images"]


def test_robustness_has_a_row_a_change_and_the_untouched_as_reference():
    table = pd.DataFrame({
        "change": ["none", "blur", "blur", "mirror"], "level": ["", 1, 2, "yes"], "value": [0.9, 0.85, 0.7, 0.9],
        "low": [0.85, 0.8, 0.6, 0.85], "high": [0.95, 0.9, 0.8, 0.95],
    })  # fmt: skip
    ax = evaluation.plot_robustness(table)
    assert ticks(ax.get_yticklabels()) == ["blur 1", "blur 2", "mirror yes"] and texts(ax) == [
        "85.0%",
        "70.0%",
        "90.0%",
    ]
    assert drawn(ax, "untouched").get_xdata() == [0.9, 0.9]


def test_robustness_without_a_change_is_refused():
    table = pd.DataFrame({"change": ["none"], "level": [""], "value": [0.9], "low": [0.8], "high": [1.0]})
    with pytest.raises(ValueError, match="at least one change"):
        evaluation.plot_robustness(table)


def test_heat_lies_over_the_whole_of_each_thumbnail():
    fig = data.plot_heat_maps([np.zeros((40, 60, 3), np.uint8)] * 2, [np.eye(8), np.zeros((8, 8))])
    assert [len(ax.images) for ax in fig.axes] == [2, 2]
    for picture in fig.axes[0].images:
        assert list(picture.get_extent()) == [-0.5, 59.5, 39.5, -0.5]


def test_incarnations_are_drawn_in_order_with_published_ones_hollow(tmp_path):
    matrix = np.array([[8, 2], [1, 9]])
    made = {"name": "demo", "date": "2026-01-01", "data": "f00", "accuracy": 0.85, "interval": [0.7, 0.9]}
    runs.write_json(made | {"images": 20, "class_names": ["a", "b"], "counts": matrix}, tmp_path / "a.json")
    art = runpy.run_path(str(Path(__file__).parents[2] / "_art" / "redraw.py"))
    table = art["read_incarnations"]([tmp_path / "a.json", PUBLISHED])
    assert table["matrix"][2].tolist() == matrix.tolist() and table["images"].tolist() == [0, 0, 20]
    ax = art["plot_incarnations"](table)
    assert ticks(ax.get_yticklabels()) == ["published, 90 %", "published, 93 %", "demo\n2026-01-01"]
    assert texts(ax) == ["90.0%", "93.0%", "85.0%"] and ax.lines[1].get_mfc() == "white"


# ── The look ────────────────────────────────────────────────────────────────────────────────────


def test_drawing_leaves_the_readers_settings_alone(images):
    before = dict(mpl.rcParams)
    data.plot_counts(images)
    assert dict(mpl.rcParams) == before


def test_a_figure_is_drawn_on_the_axes_that_it_is_given(images):
    _, ax = plt.subplots()
    assert data.plot_counts(images, ax=ax) is ax and len(plt.get_fignums()) == 1


ODD = ["$a$", "$\\frac$", "_x", "a^b", "100 %", "漢字", "n" * 255]


def drawings_of(names):
    """Every figure, drawn with these class names."""
    k, n = len(names), 4 * len(names)
    labels, rng = np.array(names * 4, dtype=object), np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(k), n)
    images = pd.DataFrame({
        "given_label": labels, "split": "train", "problem": np.where(np.arange(n) < k, "truncated", ""),
        "width": 100, "height": 100, "format": "PNG",
    })  # fmt: skip
    matrix = np.eye(k, dtype=int) * 5
    table = pd.DataFrame(
        {"name": names, "value": 0.5, "low": 0.4, "high": 0.6, "date": "", "accuracy": 0.5, "images": 1}
    )
    sides = labels == names[0], probs[:, 0]
    curve, points = evaluate.threshold_curve(*sides), evaluate.at_threshold(*sides, 0.5, prevalence=0.01)
    wishes = pd.DataFrame({"wish": list("abcdefg"), "threshold": np.linspace(0.1, 0.9, k)})
    history = {"stage": "head", "learning_rate": np.geomspace(1e-5, 1e-2, k)}
    history |= dict.fromkeys(("loss", "accuracy", "val_loss", "val_accuracy"), np.full(k, 0.5))
    slices = {"attribute": names, "value": names, "images": 5, "rest": 0.5, "p": 0.1, "q": 0.1}
    parity = {"size_mb": 1.0, "ms_per_image": 1.0, "largest_difference": 1e-4, "changed_argmax": 0, "pictures": 5}
    parity |= {"tolerance": 1e-3, "tolerated": "largest_difference"}
    thumbnails = [np.zeros((9, 9, 3), np.uint8)] * k
    changes = table.assign(change=["none", *"abcdef"], level="")
    return {
        "plot_counts": [images], "plot_problems": [images], "plot_formats": [images], "plot_sizes": [images],
        "plot_contact_sheet": {"thumbnails": thumbnails, "titles": names, "title": names[0]},
        "plot_heat_maps": {"thumbnails": thumbnails, "heat": [np.eye(3)] * k, "titles": names},
        "plot_feature_map": [rng.random((n, 2)), labels], "plot_intervals": {"table": table, "title": names[0]},
        "plot_class_scores": [evaluate.scores(labels, probs, class_names=names)],
        "plot_calibration": [{n: evaluate.calibration_table(labels, probs, class_names=names) for n in names[:3]}],
        "plot_precision_recall": [curve], "plot_roc": [curve],
        "plot_threshold": [curve, points.iloc[0]], "plot_slices": [pd.DataFrame(slices | {"low": 0.4, "high": 0.6, "accuracy": 0.5})],
        "plot_robustness": [changes],
        "plot_detectors": [dict.fromkeys(names, curve)],
        "plot_week": {"week": evaluate.review_week([9] * k, [1] * k, to_person=0.1, seconds=9), "title": names[0]},
        "plot_confusion": {"matrix": matrix, "class_names": names, "title": names[0]},
        "plot_confusion_pair": {"before": matrix, "after": matrix, "class_names": names, "titles": names[:2]},
        "plot_score_histogram": {"score": pd.Series(probs[:, 0]), "points": wishes},
        "plot_parity": [pd.DataFrame(parity, index=list("abcdefg"))],
        "plot_noise_matrix": [pd.DataFrame(matrix, index=names, columns=names)],
        "plot_scores": [pd.DataFrame({"score": probs[:, 0], "is_issue": True})],
        "plot_history": [pd.DataFrame(history)],
        "plot_learning_curve": [pd.DataFrame({"images": [10, 20], "repeat": 0, "accuracy": 0.5})],
    }  # fmt: skip


@pytest.mark.parametrize("name", [name for name in dir(plots) if name.startswith("plot_")])
def test_no_class_name_is_taken_for_a_formula_or_hidden(name, recwarn):
    written = []
    for names in ([f"class {i}" for i in range(len(ODD))], ODD):
        given = drawings_of(names)[name]
        drawn = getattr(plots, name)(**given) if isinstance(given, dict) else getattr(plots, name)(*given)
        drawn.figure.canvas.draw()
        written.append([text.get_text() for text in drawn.findobj(mpl.text.Text)])
    for plain, odd in zip((f"class {i}" for i in range(len(ODD))), ODD, strict=True):
        assert any(plain in text for text in written[0]) == any(odd[:20] in text for text in written[1]), odd
    assert not any(text.get_parse_math() for text in drawn.findobj(mpl.text.Text) if "$" in text.get_text())
    assert not any("mathdefault" in text or len(text) > 200 for text in written[1]), "plain numbers, no endless names"
    assert not [w for w in recwarn if "collapsed" in str(w.message)], "there is room for the figure itself"


def test_axes_made_by_the_reader_take_no_name_for_a_formula_either():
    _, ax = plt.subplots()
    confusion.plot_confusion(np.eye(2, dtype=int), class_names=["$\\frac$", "b"], title="$a$", ax=ax)
    ax.figure.canvas.draw()
    assert not any(text.get_parse_math() for text in ax.findobj(mpl.text.Text))


def lightness(colour):
    """CIE L* of an sRGB colour: what is left of it in greyscale."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    y = np.dot(linear, [0.2126, 0.7152, 0.0722])
    return 116 * np.cbrt(y) - 16


def test_splits_are_told_apart_in_greyscale():
    steps = np.diff(sorted(lightness(colour) for colour in data.SPLIT_COLOURS.values()))
    assert (steps > 20).all()


def test_classes_are_told_apart_without_colour_by_their_markers():
    looks = data.class_looks([f"class {i}" for i in range(8)])
    assert len({found["marker"] for found in looks.values()}) == 8
    assert abs(lightness(style.ACCENT) - lightness(style.DARK)) > 15


def test_every_public_figure_documents_itself_and_returns_axes_or_a_figure():
    figures = {name: f for name, f in inspect.getmembers(plots) if name.startswith("plot_")}
    assert len(figures) >= 20
    for name, figure in figures.items():
        assert figure.__doc__, name
        assert inspect.signature(figure, eval_str=True).return_annotation in (Axes, Figure), name
