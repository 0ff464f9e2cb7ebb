"""Numbers agree with scikit-learn where it has them, and intervals say what they promise."""

import time
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st
from scipy.stats import false_discovery_control
from sklearn import metrics as reference

from nsfwlib.evaluate import confusion, intervals, metrics, promises, robustness, thresholds

NAMES = ["drawings", "hentai", "neutral", "porn", "sexy"]
UNSAFE = ["hentai", "porn", "sexy"]


def made_up(n=600, *, seed=0, sharpness=2.0, groups=None):
    """Labels (N,) and pred_probs (N, 5) of a classifier that is mostly right; groups share label and noise."""
    rng = np.random.default_rng(seed)
    groups = np.arange(n) if groups is None else groups
    truth = rng.integers(5, size=n)[groups]
    logits = rng.normal(size=(n, 5))[groups] + sharpness * np.eye(5)[truth]
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return np.array(NAMES, dtype=object)[truth], probs


def by_score(labels, probs, **options):
    return metrics.scores(labels, probs, class_names=NAMES, **options).set_index(["score", "class"])


def top(probs):
    return np.array(NAMES, dtype=object)[probs.argmax(axis=1)]


# ── Confusion ───────────────────────────────────────────────────────────────────────────────────


def test_confusion_has_labels_in_rows_and_predictions_in_columns():
    matrix = confusion.confusion_matrix(
        ["porn", "porn", "sexy"], ["sexy", "porn", "sexy"], class_names=["porn", "sexy"]
    )
    assert matrix.tolist() == [[1, 1], [0, 1]]


def test_confusion_of_nothing_is_all_zeros():
    assert confusion.confusion_matrix([], [], class_names=NAMES).tolist() == np.zeros((5, 5)).tolist()


def test_a_class_that_the_model_does_not_know_is_named():
    with pytest.raises(ValueError, match=r"Received also: \['unheard'\] \(1 rows\)"):
        confusion.confusion_matrix(["porn", "unheard"], ["porn", "porn"], class_names=["porn", "sexy"])


def test_probabilities_of_another_number_of_classes_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 5\).*Received: \(2, 3\)"):
        metrics.scores(["porn", "sexy"], np.full((2, 3), 1 / 3), class_names=NAMES)


def test_probabilities_with_nan_are_refused():
    labels, probs = made_up(10)
    probs[3] = np.nan
    with pytest.raises(ValueError, match="1 rows with NaN"):
        metrics.scores(labels, probs, class_names=NAMES)


def test_groups_of_another_length_are_refused():
    labels, probs = made_up(10)
    with pytest.raises(ValueError, match="Expected one group a row: 10"):
        metrics.scores(labels, probs, class_names=NAMES, groups=[1, 2])


def counted(matrix, names):
    """Labels and predictions that make this confusion matrix."""
    return np.repeat(names, np.sum(matrix, axis=1)), np.concatenate([np.repeat(names, row) for row in matrix])


def test_confused_pairs_come_worst_first_and_speak_in_sentences():
    matrix = np.array([[90, 10, 0], [2, 8, 0], [0, 0, 5]])
    cells = confusion.confusion_intervals(*counted(matrix, NAMES[:3]), class_names=NAMES[:3])
    pairs = confusion.confused_pairs(matrix, class_names=NAMES[:3], intervals=cells)
    assert pairs[["label", "predicted", "count"]].values.tolist() == [
        ["hentai", "drawings", 2],
        ["drawings", "hentai", 10],
    ]
    assert pairs["sentence"][1].startswith(
        "10 of 100 drawings images (10.0%, interval 5.3% to 17.0%) are taken for hentai"
    )


# ── Intervals ───────────────────────────────────────────────────────────────────────────────────


def test_jeffreys_interval_leaves_a_fortieth_of_its_beta_distribution_on_either_side():
    low, high = intervals.jeffreys(np.array([0, 3, 7]), 7)
    draws = np.random.default_rng(0).beta(3.5, 4.5, 400_000)
    assert [(draws < low[1]).mean(), (draws > high[1]).mean()] == pytest.approx([0.025, 0.025], abs=0.001)
    assert low[0] == 0 and high[2] == 1 and high[0] == pytest.approx(1 - low[2])


def test_an_empty_cell_keeps_an_upper_bound_and_an_empty_row_is_unknown():
    cells = confusion.confusion_intervals(*counted([[100, 0], [0, 0]], ["a", "b"]), class_names=["a", "b"])
    assert cells[0, 1, 0] == 0 and 0.01 < cells[0, 1, 1] < 0.04
    assert cells[1].tolist() == [[0, 1], [0, 1]]


def test_exact_copies_in_groups_count_once():
    groups = np.repeat(np.arange(200), 3)
    labels, probs = made_up(600, groups=groups)
    copies, once = by_score(labels, probs, groups=groups), by_score(labels[::3], probs[::3])
    for name in (("accuracy", ""), ("recall", "porn"), ("precision", "porn"), ("f1", "porn")):
        assert copies.loc[name, ["low", "high"]].tolist() == pytest.approx(
            once.loc[name, ["low", "high"]].tolist(), abs=1e-9
        )
    widths = copies["high"] - copies["low"], once["high"] - once["low"]
    assert (widths[0] / widths[1]).between(0.7, 1.4).all()


def test_cells_of_copied_images_are_as_unsure_as_those_of_single_ones():
    groups = np.repeat(np.arange(200), 3)
    labels, probs = made_up(600, groups=groups)
    copies = confusion.confusion_intervals(labels, top(probs), class_names=NAMES, groups=groups)
    single = confusion.confusion_intervals(labels[::3], top(probs)[::3], class_names=NAMES)
    assert copies == pytest.approx(single, abs=1e-9)


def test_group_correlation_is_one_for_copies_and_none_for_strangers():
    groups = np.repeat(np.arange(300), 2)
    rng = np.random.default_rng(0)
    assert intervals.group_correlation(np.repeat(rng.random(300) < 0.3, 2), groups) == 1
    assert intervals.group_correlation(rng.random(600) < 0.3, groups) < 0.15


def test_effective_count_lies_between_groups_and_rows():
    groups = np.repeat(np.arange(50), 4)
    assert intervals.effective_count(groups, 200) == pytest.approx(50)
    assert intervals.effective_count(groups, 200, correlation=0) == 200
    assert intervals.effective_count(None, 200) == 200


def test_rows_without_a_group_are_groups_of_their_own():
    assert intervals.effective_count([1.0, 1.0, np.nan, np.nan], 4) == pytest.approx(4 / 1.5)


@pytest.mark.parametrize("share", [0.01, 0.9])
def test_intervals_of_cells_cover_the_truth_in_95_of_100_cases(share):
    rng = np.random.default_rng(0)
    hits = rng.binomial(300, share, size=1000)
    low, high = intervals.jeffreys(hits, 300)
    assert 0.92 <= ((low <= share) & (share <= high)).mean() <= 0.98


def test_accuracy_of_near_duplicates_is_covered_where_the_naive_interval_fails():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(100), 5)
    covered = np.zeros(2)
    for _ in range(300):
        right = np.where(rng.random(500) < 0.9, (rng.random(100) < 0.85)[groups], rng.random(500) < 0.85)
        for i, found in enumerate((intervals.share_interval(right, groups), intervals.share_interval(right))):
            covered[i] += found.low <= 0.85 <= found.high
    assert covered[0] / 300 >= 0.92 and covered[1] / 300 < 0.8


def test_shares_of_parts_have_an_interval_each_and_an_empty_part_is_unknown():
    right, groups = np.arange(60) % 3 > 0, np.repeat(np.arange(30), 2)
    found = intervals.share_interval(right, groups, among=[np.arange(60) < 20, np.zeros(60, bool)])
    assert found.rows.tolist() == [20, 0] and found.value[0] == right[:20].mean() and np.isnan(found.value[1])
    assert 10 <= found.worth[0] <= 20 and (found.low[1], found.high[1]) == (0, 1)


# ── Scores ──────────────────────────────────────────────────────────────────────────────────────


def test_scores_agree_with_scikit_learn():
    labels, probs = made_up()
    table, predicted, truth = by_score(labels, probs), top(probs), np.array(NAMES)[:, None] == labels
    close = {"abs": 1e-12, "rel": 0}
    assert table.loc[("accuracy", ""), "value"] == pytest.approx(reference.accuracy_score(labels, predicted), **close)
    balanced = reference.balanced_accuracy_score(labels, predicted)
    assert table.loc[("balanced accuracy", ""), "value"] == pytest.approx(balanced, **close)
    parts = reference.precision_recall_fscore_support(labels, predicted, labels=NAMES)
    for name, values in zip(("precision", "recall", "f1"), parts, strict=False):
        assert table.loc[name, "value"].to_numpy() == pytest.approx(values, **close)
    loss = reference.log_loss(labels, probs, labels=NAMES)
    assert table.loc[("log-loss", ""), "value"] == pytest.approx(loss, **close)
    assert table.loc[("Brier score", ""), "value"] == pytest.approx(((probs - truth.T) ** 2).sum(1).mean(), **close)
    precision = [reference.average_precision_score(row, column) for row, column in zip(truth, probs.T, strict=True)]
    assert table.loc["average precision", "value"].to_numpy() == pytest.approx(precision, **close)
    areas = [reference.roc_auc_score(row, column) for row, column in zip(truth, probs.T, strict=True)]
    assert table.loc["AUROC", "value"].to_numpy() == pytest.approx(areas, **close)
    macro = reference.f1_score(labels, predicted, average="macro")
    assert table.loc[("macro F1", ""), "value"] == pytest.approx(macro, abs=1e-6)


def rankings(n, *, seed=0):
    labels, probs = made_up(n, seed=seed)
    codes = confusion.class_codes(labels, NAMES)
    return metrics._ranking_scores(codes, probs, NAMES, np.arange(n)).set_index(["score", "class"])


def test_intervals_of_rankings_cover_the_truth():
    many, found = rankings(40_000)["value"], [rankings(150, seed=seed) for seed in range(1, 41)]
    covered = pd.concat([table["low"].le(many) & many.le(table["high"]) for table in found])
    assert (covered.groupby("score").mean() >= 0.93).all()


def test_every_score_lies_in_its_interval():
    table = by_score(*made_up(300, sharpness=3))
    plain = table[table.index.get_level_values("score") != "calibration error"]
    assert (plain["low"] <= plain["value"] + 1e-9).all() and (plain["value"] <= plain["high"] + 1e-9).all()


def test_intervals_shrink_with_more_images():
    few, many = by_score(*made_up(200)), by_score(*made_up(5000))
    assert ((many["high"] - many["low"]) < (few["high"] - few["low"])).all()


def test_a_perfect_classifier_is_not_certain():
    labels, _ = made_up(100)
    table = by_score(labels, np.eye(5)[[NAMES.index(x) for x in labels]])
    assert table.loc[("accuracy", ""), "value"] == 1 and 0.95 < table.loc[("accuracy", ""), "low"] < 0.99
    assert (table.loc["average precision", "low"] < 0.999).all()


def test_a_class_without_an_image_says_so_and_spoils_nothing_else():
    labels, probs = made_up()
    kept = labels != "sexy"
    table = by_score(labels[kept], probs[kept])
    assert table.loc[("recall", "sexy"), ["low", "high", "support"]].tolist() == [0, 1, 0]
    assert table.loc[("recall", "sexy"), "note"] == "no image to measure it on"
    assert np.isnan(table.loc[("average precision", "sexy"), "value"])
    assert table.loc[("balanced accuracy", ""), "value"] == pytest.approx(table.loc["recall", "value"].mean())


def test_predictions_all_alike_leave_the_other_precisions_unknown():
    labels, _ = made_up(50)
    table = by_score(labels, np.tile([0.96, 0.01, 0.01, 0.01, 0.01], (50, 1)))
    assert table.loc["precision", "value"].isna().tolist() == [False, True, True, True, True]


def test_one_class_only_and_no_rows_at_all_do_not_fail():
    labels, probs = made_up(50)
    assert np.isnan(by_score(["porn"] * 50, probs).loc[("average precision", "porn"), "value"])
    assert by_score(labels[:0], probs[:0]).loc[("accuracy", ""), "note"] == "no image to measure it on"


def test_same_seed_gives_the_same_table():
    labels, probs = made_up(200)
    pd.testing.assert_frame_equal(by_score(labels, probs, seed=3), by_score(labels, probs, seed=3))


def test_ten_times_the_predictions_take_no_more_than_ten_times_as_long():
    seconds = []
    for count in (5_000, 50_000):
        labels, probs = made_up(count)
        start = time.process_time()
        metrics.scores(labels, probs, class_names=NAMES, groups=np.arange(count) // 2)
        seconds.append(time.process_time() - start)
    assert seconds[1] < 20 * seconds[0]  # sorting, and a busy machine


# ── Calibration ─────────────────────────────────────────────────────────────────────────────────


def test_calibration_error_of_an_honest_model_is_small_and_of_a_boastful_one_is_not():
    rng = np.random.default_rng(0)
    honest = np.clip(rng.beta(8, 2, size=20_000), 0.5, 1)
    probs = np.stack([honest, 1 - honest], axis=1)
    labels = np.where(rng.random(20_000) < honest, "a", "b")
    boastful = metrics.apply_temperature(probs, 0.3)
    errors = [
        metrics.scores(labels, p, class_names=["a", "b"]).set_index("score").loc["calibration error", "value"]
        for p in (probs, boastful)
    ]
    assert errors[0] < 0.02 and errors[1] > 0.08


def test_calibration_error_is_the_weighted_gap_of_its_bins():
    labels, probs = made_up()
    table = metrics.calibration_table(labels, probs, class_names=NAMES).dropna()
    gaps = (table["accuracy"] - table["confidence"]).abs()
    error = by_score(labels, probs).loc[("calibration error", ""), "value"]
    assert error == pytest.approx(np.average(gaps, weights=table["count"]), abs=1e-12)
    assert ((table["low"] <= table["accuracy"]) & (table["accuracy"] <= table["high"])).all()


def test_interval_of_the_calibration_error_reaches_zero_for_an_honest_model():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(400, 5))
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array(NAMES, object)[(probs.cumsum(1) < rng.random((400, 1))).sum(1)]
    row = by_score(labels, probs).loc[("calibration error", "")]
    assert row["low"] == 0 and row["value"] > 0.02


def honest_answers(n, *, seed=0, temperature=1.35):
    """Codes (N,) and pred_probs (N, 5) that are honest once divided by the temperature."""
    rng = np.random.default_rng(seed)
    probs = np.exp(2.2 * rng.normal(size=(n, 5)))
    probs /= probs.sum(axis=1, keepdims=True)
    truth = (probs.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(0, 4)
    return truth, metrics.apply_temperature(probs, 1 / temperature)


@pytest.mark.parametrize("temperature", [2.0, 0.7])
def test_fitted_temperature_undoes_a_known_one(temperature):
    truth, probs = honest_answers(5000, temperature=temperature)
    found = metrics.fit_temperature(np.array(NAMES)[truth], np.log(probs), class_names=NAMES)
    assert found == pytest.approx(temperature, rel=0.08)


def test_wrong_labels_do_not_heat_an_honest_model_once_their_noise_is_in_the_loss_or_rows_are_audited():
    truth, probs = honest_answers(1500, temperature=1.35)
    rng, names, logs = np.random.default_rng(1), np.array(NAMES), np.log(probs)
    given = np.where(rng.random(1500) < 0.2, (truth + rng.integers(1, 5, 1500)) % 5, truth)
    noise = np.array([[(given[truth == t] == g).sum() for t in range(5)] for g in range(5)])
    options = {"class_names": NAMES}
    assert metrics.fit_temperature(names[given], logs, **options) > 2
    assert metrics.fit_temperature(names[given], logs, noise=noise, **options) == pytest.approx(1.35, abs=0.2)
    chance = np.where(given == probs.argmax(axis=1), 0.3, 1.0)
    seen = rng.random(1500) < chance
    audited = {"weights": 1 / chance[seen], **options}
    assert metrics.fit_temperature(names[truth[seen]], logs[seen], **audited) == pytest.approx(1.35, abs=0.2)
    assert metrics.fit_temperature(names[truth[seen]], logs[seen], **options) > 1.5, "unweighted misleads"


def test_a_temperature_whose_gain_may_be_chance_stays_one():
    truth, probs = honest_answers(200, temperature=1.0)
    assert metrics.fit_temperature(np.array(NAMES)[truth], np.log(probs), class_names=NAMES) == 1.0


def test_audited_rows_stand_for_others_in_the_calibration_table():
    truth, probs = honest_answers(400, temperature=1.5)
    times = np.random.default_rng(0).integers(1, 4, 400)
    many = np.repeat(np.arange(400), times)
    few = metrics.calibration_table(np.array(NAMES)[truth], probs, class_names=NAMES, weights=times)
    all_of_them = metrics.calibration_table(np.array(NAMES)[truth[many]], probs[many], class_names=NAMES)
    for name in ("confidence", "accuracy"):
        assert few[name].dropna().to_numpy() == pytest.approx(all_of_them[name].dropna().to_numpy())


@given(st.floats(0.05, 20), st.integers(0, 1000))
def test_temperature_never_changes_the_top_class(temperature, seed):
    _, probs = made_up(50, seed=seed, sharpness=1)
    assert (metrics.apply_temperature(probs, temperature).argmax(1) == probs.argmax(1)).all()


def test_temperature_needs_validation_rows():
    with pytest.raises(ValueError, match="keep T = 1"):
        metrics.fit_temperature([], np.zeros((0, 5)), class_names=NAMES)


# ── Thresholds ──────────────────────────────────────────────────────────────────────────────────


def two_sides(n=2000, *, seed=0, share=0.5):
    rng = np.random.default_rng(seed)
    unsafe = rng.random(n) < share
    return unsafe, np.round(1 / (1 + np.exp(-rng.normal(np.where(unsafe, 1.5, -1.5), 1.2))), 3)


def test_unsafe_score_sums_the_unsafe_classes():
    _, probs = made_up(20)
    found = thresholds.unsafe_score(probs, class_names=NAMES, unsafe_classes=UNSAFE)
    assert found == pytest.approx(probs[:, [1, 3, 4]].sum(1))


@pytest.mark.parametrize("unsafe_classes", [[], NAMES, ["nudity"]])
def test_unsafe_classes_must_be_some_of_the_classes(unsafe_classes):
    with pytest.raises(ValueError, match=r"some, not all, of \['drawings', 'hentai'"):
        thresholds.unsafe_score(np.full((1, 5), 0.2), class_names=NAMES, unsafe_classes=unsafe_classes)


def test_threshold_curve_agrees_with_scikit_learn():
    unsafe, score = two_sides(500)
    curve = thresholds.threshold_curve(unsafe, score, most=10_000)
    precision, recall, threshold = reference.precision_recall_curve(unsafe, score)
    assert curve["threshold"].to_numpy() == pytest.approx(threshold[::-1], abs=1e-12)
    assert curve["precision"].to_numpy() == pytest.approx(precision[:-1][::-1], abs=1e-12)
    assert curve["recall"].to_numpy() == pytest.approx(recall[:-1][::-1], abs=1e-12)
    fpr, _, at = reference.roc_curve(unsafe, score, drop_intermediate=False)
    assert curve["threshold"].to_numpy() == pytest.approx(at[1:], abs=1e-12)
    assert curve["fpr"].to_numpy() == pytest.approx(fpr[1:], abs=1e-12)


def test_prevalence_arithmetic_agrees_with_a_resampled_set():
    unsafe, score = two_sides(4000)
    row = thresholds.at_threshold(unsafe, score, 0.6, prevalence=0.1).iloc[0]
    rng = np.random.default_rng(0)
    rows = np.r_[rng.choice(np.flatnonzero(unsafe), 100_000), rng.choice(np.flatnonzero(~unsafe), 900_000)]
    flagged = score[rows] >= 0.6
    assert row["precision"] == pytest.approx(unsafe[rows][flagged].mean(), abs=0.003)
    assert row["flagged"] == pytest.approx(flagged.sum() / 10, rel=0.01)
    assert row["missed"] == pytest.approx((unsafe[rows] & ~flagged).sum() / 10, rel=0.03)
    assert row["false_alarms"] == pytest.approx((~unsafe[rows] & flagged).sum() / 10, rel=0.02)


def test_operating_points_grant_their_wish_on_validation_and_are_reported_on_test():
    validation, test = two_sides(seed=1), two_sides(seed=2)
    points = promises.operating_points(*test, validation=validation, prevalence=[0.5])
    on_validation = [thresholds.at_threshold(*validation, t, prevalence=0.5).iloc[0] for t in points["threshold"]]
    assert (
        on_validation[0]["precision"] >= 0.9 and on_validation[1]["recall"] >= 0.95 and on_validation[2]["fpr"] <= 0.01
    )
    again = thresholds.at_threshold(*test, points["threshold"][0], prevalence=0.5).iloc[0]
    assert (
        points.loc[0, ["precision", "recall", "flagged"]].tolist() == again[["precision", "recall", "flagged"]].tolist()
    )


def test_test_rows_have_no_say_in_the_threshold():
    validation, test = two_sides(seed=1), two_sides(seed=2)
    shifted = test[0], test[1] / 2
    points = [promises.operating_points(*rows, validation=validation, prevalence=[0.1]) for rows in (test, shifted)]
    assert points[0]["threshold"].equals(points[1]["threshold"])
    assert points[0]["recall"].dropna().tolist() != points[1]["recall"].dropna().tolist()


def test_of_thresholds_that_grant_a_wish_the_most_useful_is_taken():
    unsafe, score = np.array([True] * 5 + [False] * 5), np.array([0.9, 0.8, 0.7, 0.6, 0.2, 0.65, 0.4, 0.3, 0.1, 0.05])
    asked = {"wishes": [("precision", 0.75), ("recall", 0.8), ("fpr", 0.0)], "prevalence": [0.5], "promise": None}
    points = promises.operating_points(unsafe, score, validation=(unsafe, score), **asked)
    assert points["threshold"].tolist() == [0.6, 0.6, 0.7] and points["note"].str.startswith("A coin toss").all()


def test_wished_precision_needs_a_higher_threshold_where_unsafe_uploads_are_rare():
    points = promises.operating_points(
        *two_sides(seed=2),
        validation=two_sides(seed=1),
        wishes=[("precision", 0.9)],
        prevalence=[0.5, 0.1],
        promise=None,
    )
    assert points["threshold"].is_monotonic_increasing and points["threshold"].nunique() == 2


def test_a_wish_that_no_threshold_grants_is_a_sentence():
    unsafe, score = np.array([True, False] * 50), np.tile([0.4, 0.6], 50)
    row = promises.operating_points(
        unsafe, score, validation=(unsafe, score), wishes=[("precision", 0.99)], prevalence=[0.5]
    )
    assert np.isnan(row["threshold"][0]) and np.isnan(row["recall"][0])
    assert row["note"][0] == "No threshold reaches precision 0.99 at prevalence 0.5 on validation."


def test_validation_of_one_kind_only_is_a_sentence():
    unsafe, score = two_sides(100)
    row = promises.operating_points(unsafe, score, validation=(unsafe[unsafe], score[unsafe]), prevalence=[0.5])
    assert row["note"].str.contains("both kinds are needed").all()


def test_prevalence_zero_and_one_are_computed():
    points = promises.operating_points(
        *two_sides(), validation=two_sides(seed=1), wishes=[("recall", 0.9)], prevalence=[0, 1]
    )
    assert points["precision"].tolist() == [0, 1]


def test_prevalence_outside_zero_to_one_is_refused():
    with pytest.raises(ValueError, match=r"share in \[0, 1\]. Received: \[50"):
        thresholds.at_threshold(*two_sides(50), 0.5, prevalence=50)


def test_a_strange_wish_is_refused():
    with pytest.raises(ValueError, match="Expected wishes such as"):
        promises.operating_points(*two_sides(50), validation=two_sides(50), wishes=[("accuracy", 0.9)])


def test_truth_as_text_is_refused():
    with pytest.raises(ValueError, match="Expected unsafe as bool"):
        thresholds.threshold_curve(np.array(["porn", "neutral"]), np.array([0.5, 0.5]))


def test_test_rows_of_one_kind_only_leave_the_other_side_unknown():
    unsafe, score = two_sides(100)
    row = thresholds.at_threshold(unsafe[unsafe], score[unsafe], 0.5, prevalence=0.5).iloc[0]
    assert np.isnan(row["fpr"]) and np.isnan(row["precision"]) and not np.isnan(row["recall"])
    assert thresholds.threshold_curve(unsafe[unsafe], score[unsafe])["fpr"].isna().all()


# ── Slices ──────────────────────────────────────────────────────────────────────────────────────


def test_a_planted_bad_slice_is_found_and_chance_ones_are_not():
    rng = np.random.default_rng(0)
    attributes = pd.DataFrame({"source": rng.choice(["web", "phone", "scan"], 3000)})
    for i in range(20):
        attributes[f"irrelevant {i}"] = rng.choice(["x", "y"], 3000)
    right = rng.random(3000) < np.where(attributes["source"] == "scan", 0.8, 0.93)
    table = robustness.accuracy_by_slice(attributes, right)
    assert table.loc[0, ["attribute", "value"]].tolist() == ["source", "scan"]
    assert table["q"].to_numpy() == pytest.approx(false_discovery_control(table["p"]))
    assert table.loc[0, "q"] < 0.001 and (table[table["attribute"].ne("source")]["q"] > 0.05).all()


def test_false_discoveries_stay_rare_under_near_duplicates():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(200), 5)
    alarms = 0
    for _ in range(40):
        attributes = pd.DataFrame({"topic": rng.choice(["x", "y", "z"], 200)[groups]})
        right = (rng.random(200) < 0.85)[groups]
        alarms += (robustness.accuracy_by_slice(attributes, right, groups=groups)["q"] < 0.05).any()
    assert alarms <= 5


def test_a_slice_with_harder_classes_is_not_blamed_for_them():
    rng = np.random.default_rng(0)
    hard = rng.random(3000) < 0.5
    attributes = pd.DataFrame({"source": np.where(rng.random(3000) < np.where(hard, 0.8, 0.2), "web", "phone")})
    right = rng.random(3000) < np.where(hard, 0.75, 0.97)
    blamed = robustness.accuracy_by_slice(attributes, right)
    within = robustness.accuracy_by_slice(attributes, right, classes=np.where(hard, "porn", "neutral"))
    assert blamed["q"].max() < 1e-6 and within["q"].min() > 0.05
    assert within["rest"].to_numpy() == pytest.approx(within["accuracy"].to_numpy(), abs=0.03)


def test_the_worst_slice_is_covered_although_it_was_picked():
    covered = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        attributes = pd.DataFrame({"source": rng.choice(list("abcdefgh"), 600)})
        worst = robustness.accuracy_by_slice(attributes, rng.random(600) < 0.85).iloc[0]
        covered += worst["low"] <= 0.85 <= worst["high"]
    assert covered >= 93


def test_small_slices_come_last_and_say_so():
    attributes = pd.DataFrame({"source": ["rare"] * 5 + ["web"] * 100 + ["phone"] * 100})
    right = np.r_[np.zeros(5, bool), np.ones(100, bool), np.arange(100) % 2 > 0]
    table = robustness.accuracy_by_slice(attributes, right)
    assert table["value"].tolist() == ["phone", "web", "rare"]
    assert table["note"].tolist() == ["", "", "fewer than 30 images here or elsewhere: no conclusion"]


def test_numbers_are_sliced_at_their_quartiles_and_gaps_are_unknown():
    table = robustness.accuracy_by_slice(
        pd.DataFrame({"bytes": np.r_[np.arange(400.0), [np.nan] * 40]}), np.ones(440, bool)
    )
    assert table["images"].tolist() == [100, 100, 100, 100, 40]
    assert set(table["value"]) >= {"0 to 99.8", "unknown"}


def test_slice_attributes_come_from_the_images_table():
    images = pd.DataFrame({
        "path": ["a", "b", "c"], "source": ["web", "web", ""], "width": [100, 400, 2000], "height": [200, 500, 1500],
        "format": ["JPEG", "PNG", "GIF"], "brightness": [0.1, 0.5, 0.9], "grey": [True, False, None],
        "frames": [1, 1, 12], "group": [0, 1, 1],
    }, index=[7, 8, 9])  # fmt: skip
    table = robustness.slice_attributes(images)
    assert table["shorter side"].tolist() == ["≤ 150 px", "301–600", "> 1200 px"]
    assert table["animation"].tolist() == ["still", "still", "animated"]
    assert table["near-duplicates"].tolist() == ["alone", "has some", "has some"]
    assert table["colour"].tolist() == ["greyscale", "colour", "colour"]


def test_metadata_is_joined_by_path_in_the_order_of_the_images():
    images = pd.DataFrame({"path": ["b", "a"]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = robustness.slice_attributes(images, pd.DataFrame({"path": ["a", "b"], "topic": ["x", "y"]}))
    assert table["topic"].tolist() == ["y", "x"]


def test_metadata_read_as_text_has_numbers_where_numbers_are_written_and_codes_where_they_are_not():
    own = {"path": ["007", "7", "1e1"], "age": ["-1.5", "", "3"], "code": ["007", "7", "70"], "land": ["NA", "DE", ""]}
    table = robustness.slice_attributes(pd.DataFrame({"path": ["1e1", "007", "7"]}), pd.DataFrame(own))
    assert table["age"].fillna(99).tolist() == [3, -1.5, 99]
    assert table["code"].tolist() == ["70", "007", "7"] and table["land"].fillna("?").tolist() == ["?", "NA", "DE"]


def test_metadata_of_more_images_than_these_is_no_reason_to_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        robustness.slice_attributes(
            pd.DataFrame({"path": ["a"]}), pd.DataFrame({"path": ["a", "b"], "topic": ["x", "y"]})
        )


def test_an_attribute_that_differs_for_every_image_is_not_sliced_into_thousands():
    table = robustness.accuracy_by_slice(pd.DataFrame({"url": [f"u{i}" for i in range(3000)]}), np.arange(3000) % 9 > 0)
    assert len(table) == 51 and "any other" in set(table["value"])


def test_metadata_whose_paths_do_not_match_warns_in_a_sentence():
    with pytest.warns(UserWarning, match=r"knows 0 of 1 images, first unknown: \['a'\], its own first path: \['z'\]"):
        robustness.slice_attributes(pd.DataFrame({"path": ["a"]}), pd.DataFrame({"path": ["z"], "topic": ["x"]}))


def test_metadata_without_a_path_column_is_left_out_with_a_warning():
    with pytest.warns(UserWarning, match="no column 'path'"):
        table = robustness.slice_attributes(pd.DataFrame({"path": ["a"]}), pd.DataFrame({"file": ["a"]}))
    assert list(table) == []


# ── Comparison ──────────────────────────────────────────────────────────────────────────────────


def test_comparison_is_mcnemars_exact_test():
    right, other = np.array([1] * 15 + [0] * 5 + [1] * 80, bool), np.array([0] * 15 + [1] * 5 + [1] * 80, bool)
    found = metrics.compare(right, other)
    assert found["p"] == pytest.approx(0.0413895, abs=1e-6)  # 2 · P(X ≤ 5), X binomial of 20 and ½
    assert found["difference"] == pytest.approx(0.1) and found["low"] < 0.1 < found["high"]
    assert found["sentence"].startswith("Accuracy 95.0% against 85.0%: a difference of +10.0 points")


def test_near_duplicates_vote_once_in_a_comparison():
    right, other = np.array([True] * 20 + [True] * 80), np.array([False] * 20 + [True] * 80)
    groups = np.r_[np.zeros(20, int), np.arange(1, 81)]
    assert metrics.compare(right, other)["p"] < 1e-5
    assert metrics.compare(right, other, groups=groups)["p"] == 1


def test_a_model_better_on_many_single_pictures_and_worse_on_few_series_is_not_called_better():
    rng = np.random.default_rng(0)
    groups = np.r_[np.arange(300), np.repeat(np.arange(300, 310), 20)]
    alarms = 0
    for _ in range(100):  # on average both are right as often
        other = rng.random(500) < 0.5
        one = np.where(np.arange(500) < 300, other | (rng.random(500) < 0.6), other)
        lost = np.repeat(rng.random(10) < 0.9, 20)
        one[300:] &= ~lost
        alarms += metrics.compare(one, other, groups=groups)["p"] < 0.05
    votes = metrics.compare(one, other)
    assert alarms <= 10 and votes["p"] < 1


def test_other_means_are_compared_with_an_interval_that_covers():
    rng, covered = np.random.default_rng(0), 0
    groups = np.repeat(np.arange(150), 2)
    for _ in range(200):
        step = 0.1 + np.repeat(rng.exponential(size=150), 2) - 1 + 0.1 * rng.normal(size=300)
        found = metrics.compare(step, np.zeros(300), groups=groups)
        covered += found["low"] <= 0.1 <= found["high"]
    assert 180 <= covered <= 199 and np.isnan(found["p"])


def test_equal_models_differ_by_nothing_with_p_one():
    right = np.array([True, False] * 50)
    found = metrics.compare(right, right)
    assert found["difference"] == 0 and found["p"] == 1 and found["low"] < 0 < found["high"]


def test_comparison_needs_the_same_rows():
    with pytest.raises(ValueError, match="Received: 2 and 3"):
        metrics.compare([True, False], [True, False, True])


@pytest.mark.parametrize("shift", [0, 1], ids=["all right", "all wrong"])
def test_intervals_hold_their_value_at_the_ends_of_the_scale(shift):
    labels = np.repeat(NAMES, 3)
    probs = np.eye(len(NAMES))[(np.repeat(np.arange(len(NAMES)), 3) + shift) % len(NAMES)]
    shares = metrics.scores(labels, probs, class_names=NAMES).set_index("score")
    shares = shares.loc[["accuracy", "balanced accuracy", "recall"]]
    assert shares["value"].eq(1 - shift).all()
    assert (shares["low"] <= shares["value"]).all() and (shares["value"] <= shares["high"]).all()
