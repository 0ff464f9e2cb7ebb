"""Planted label errors are found; rows that cannot be judged are said so."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits, make_moons

from nsfwlib.labels import heads, neighbours
from nsfwlib.labels.issues import find_label_issues, out_of_sample_probs
from nsfwlib.labels.noise import noise_matrix


@pytest.fixture(scope="module")
def planted():
    """The first 900 digits, 10 % of them filed under another class."""
    features, truth = load_digits(return_X_y=True)
    features, truth = features[:900], truth[:900]
    rng = np.random.default_rng(0)
    errors = rng.random(len(truth)) < 0.1
    given = np.where(errors, (truth + rng.integers(1, 10, len(truth))) % 10, truth)
    names = np.array([f"class {i}" for i in range(10)])
    probs = out_of_sample_probs(names[given], features)
    issues = find_label_issues(names[given], features=features)
    return SimpleNamespace(
        features=features, truth=names[truth], labels=names[given], errors=errors, probs=probs, issues=issues
    )


def recall_at(issues, errors, budget):
    """Share of the errors among the most suspect rows, as many as budget × the number of errors."""
    first = issues.score.fillna(-9).to_numpy().argsort()[::-1][: round(budget * errors.sum())]
    return errors[first].sum() / errors.sum()


def test_planted_label_errors_rank_first(planted):
    assert recall_at(planted.issues, planted.errors, 1.0) >= 0.9
    assert recall_at(planted.issues, planted.errors, 2.0) >= 0.98


def test_the_suggestion_is_mostly_the_true_class(planted):
    issues = planted.issues
    assert (issues.suggested == planted.truth)[planted.errors].mean() >= 0.9


def test_the_default_cut_is_mostly_right(planted):
    issues = planted.issues
    assert planted.errors[issues.is_issue].mean() >= 0.8
    assert issues.is_issue[planted.errors].mean() >= 0.7


def test_issues_from_features_and_from_their_probabilities_agree(planted):
    one, two = planted.issues, find_label_issues(planted.labels, planted.probs)
    np.testing.assert_allclose(one.score, two.score, atol=1e-4)
    assert (one.suggested == two.suggested).all()


def test_the_table_keeps_the_order_and_the_index_of_the_labels(planted):
    labels = pd.Series(planted.labels, index=[f"{i}.png" for i in range(len(planted.labels))])
    issues = find_label_issues(labels, planted.probs)
    assert issues.index.equals(labels.index)
    assert (issues.given == labels).all()
    expected = ["given", "suggested", "score", "p_given", "p_suggested", "is_issue", "note"]
    assert list(issues.columns[:7]) == expected


def test_rows_without_valid_features_are_listed_and_judge_nobody(planted):
    features = planted.features.copy()
    features[::50] = np.nan
    issues = find_label_issues(planted.labels, features=features)
    left_out = issues.iloc[::50]
    assert left_out.score.isna().all()
    assert not left_out.is_issue.any()
    assert (left_out.note == "no valid features or probabilities").all()
    rest = np.ones(len(features), bool)
    rest[::50] = False
    alone = find_label_issues(planted.labels[rest], features=features[rest])
    assert recall_at(issues[rest], planted.errors[rest], 2.0) == pytest.approx(
        recall_at(alone, planted.errors[rest], 2.0), abs=0.03
    )


@pytest.mark.parametrize("empty", ["", None, np.nan, pd.NA])
def test_unlabelled_rows_get_a_suggestion_but_no_score(planted, empty):
    labels = pd.Series(planted.labels, dtype=object)
    labels[::10] = empty
    issues = find_label_issues(labels, features=planted.features).iloc[::10]
    assert (issues.suggested == planted.truth[::10]).mean() >= 0.9
    assert issues.score.isna().all() and issues.p_given.isna().all() and not issues.is_issue.any()
    assert (issues.given == "").all() and (issues.note == "no label").all()


def test_trusted_rows_are_never_flagged(planted):
    issues = find_label_issues(planted.labels, planted.probs, trusted=planted.errors)
    assert not issues.is_issue[planted.errors].any()
    assert (issues.note[planted.errors] == "confirmed").all()


def test_the_noise_matrix_sums_to_the_class_sizes_and_finds_the_confused_pair(planted):
    labels = planted.truth.copy()
    swapped = np.flatnonzero(labels == "class 3")[::3]
    labels[swapped] = "class 5"
    probs = out_of_sample_probs(labels, planted.features)
    matrix = noise_matrix(labels, probs)
    assert matrix.sum(axis=1).to_dict() == pytest.approx(pd.Series(labels).value_counts().to_dict())
    off = matrix.to_numpy() - np.diag(np.diag(matrix))
    assert np.unravel_index(off.argmax(), off.shape) == (5, 3)
    assert matrix.loc["class 5", "class 3"] == pytest.approx(len(swapped), rel=0.3)


def test_an_absent_class_is_never_suggested(planted):
    classes = [*np.unique(planted.labels), "absent"]
    issues = find_label_issues(planted.labels, features=planted.features, classes=classes)
    assert not (issues.suggested == "absent").any()


def test_one_class_leaves_nothing_to_suspect():
    features = np.random.default_rng(0).normal(size=(30, 4))
    issues = find_label_issues(["cats"] * 30, features=features)
    assert (issues.suggested == "cats").all() and not issues.is_issue.any()
    assert (issues.note == "only one class").all()


def test_equal_margins_do_not_follow_the_order_of_the_folders():
    labels = ["a"] * 100 + ["b"] * 100
    issues = find_label_issues(labels, np.full((200, 2), 0.5))
    first = issues.score.to_numpy().argsort()[::-1][:100]
    assert 30 < (first < 100).sum() < 70


def test_the_same_seed_gives_the_same_table(planted):
    labels, features = planted.labels[:300], planted.features[:300]
    once = find_label_issues(labels, features=features, seed=3)
    pd.testing.assert_frame_equal(once, find_label_issues(labels, features=features, seed=3))


def test_the_head_keeps_the_class_order_it_was_given(planted):
    classes = ["absent", *np.unique(planted.labels)[::-1]]
    head = heads.fit_head(planted.features, planted.labels, classes=classes)
    probs = head.predict_proba(planted.features)
    assert list(head.classes_) == classes
    assert (probs[:, 0] == 0).all()
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-5)
    assert (head.classes_[probs.argmax(axis=1)] == planted.truth).mean() >= 0.9


def test_a_label_outside_the_classes_is_named(planted):
    with pytest.raises(ValueError, match=r"Expected labels in .*'a', 'b'.* Received: 'c' \(row 2"):
        find_label_issues(["a", "b", "c"], np.full((3, 2), 0.5), classes=["a", "b"])


def test_probabilities_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"Expected pred_probs of shape \(2, 2\)"):
        find_label_issues(["a", "b"], np.full((3, 2), 0.5))


def test_errors_copied_with_their_picture_are_found_only_where_groups_are_known(planted):
    """Fifteen pictures have 25 near-copies each, filed with the original, right or wrong."""
    rng = np.random.default_rng(1)
    groups = np.append(np.arange(450), np.repeat(np.arange(0, 450, 30), 25))
    features = planted.features[groups] + rng.normal(size=(len(groups), 64)) * 0.2
    copied = planted.errors[groups] & (np.bincount(groups)[groups] > 1)
    by_group = find_label_issues(planted.labels[groups], features=features, groups=groups)
    blind = find_label_issues(planted.labels[groups], features=features)
    assert (by_group.score[copied] > 0).mean() >= 0.9
    assert (blind.score[copied] > 0).mean() <= 0.5


def test_near_duplicates_under_two_labels_testify_against_one_another():
    labels, groups = ["a", "b", "b", "b"] + ["b", "a"] * 4 + ["a", "b"] * 16, [0, 0, 0, 0, *range(1, 41)]
    probs = np.full((44, 2), 0.5)
    probs[4::2], probs[5::2] = [0.9, 0.1], [0.1, 0.9]
    divided = find_label_issues(labels, probs, groups=groups)
    alone = find_label_issues(labels, probs)
    assert divided.score[0] > alone.score[0] + 0.1
    assert (divided.score[1:4] < divided.score[0]).all()


def test_near_duplicates_of_one_label_do_not_vouch_for_one_another():
    probs = np.tile([0.3, 0.7], (40, 1))
    labels = ["a", "b"] * 20
    groups = [0 if label == "a" else i for i, label in enumerate(labels, 1)]
    pd.testing.assert_frame_equal(find_label_issues(labels, probs, groups=groups), find_label_issues(labels, probs))


def test_a_missing_group_is_a_group_of_its_own(planted):
    none = find_label_issues(planted.labels, features=planted.features, groups=[None] * 900)
    pd.testing.assert_frame_equal(none, planted.issues)


def test_a_block_that_says_nothing_does_little_harm(planted):
    noise = np.random.default_rng(0).normal(size=(900, 40))
    issues = find_label_issues(planted.labels, features={"good": planted.features, "noise": noise})
    assert recall_at(issues, planted.errors, 1.0) >= 0.85


def test_rows_missing_in_one_block_are_judged_by_the_other(planted):
    left, right = planted.features[:, :40].copy(), planted.features
    left[::3] = np.nan
    issues = find_label_issues(planted.labels, features=[left, right])
    assert issues.score.notna().all() and (issues.note == "").all()
    assert recall_at(issues, planted.errors, 1.5) >= 0.9


def test_blocks_that_share_no_row_judge_each_their_own(planted):
    left, right = planted.features[:, :40].copy(), planted.features.copy()
    left[::2], right[1::2] = np.nan, np.nan
    issues = find_label_issues(planted.labels, features=[left, right])
    assert issues.score.notna().all()
    assert recall_at(issues, planted.errors, 1.5) >= 0.9


def test_labels_of_rows_without_valid_features_reach_nobody(planted):
    features, labels = planted.features[:400].copy(), planted.labels[:400].copy()
    features[::20] = np.nan
    before = find_label_issues(labels, features=features)
    labels[::20] = np.roll(labels[::20], 1)
    after = find_label_issues(labels, features=features)
    kept = before.note == ""
    pd.testing.assert_frame_equal(before[kept], after[kept])


def test_probabilities_that_are_no_distribution_are_listed_without_a_score():
    probs = np.tile([0.2, 0.8], (30, 1))
    probs[:3] = [[np.nan, 0.5], [-0.1, 1.1], [0, 0]]
    issues = find_label_issues(["a", "b"] * 15, probs)
    assert issues.score[:3].isna().all() and issues.score[3:].notna().all()
    assert (issues.note[:3] == "no valid features or probabilities").all()


def test_probabilities_and_features_vote_together(planted):
    useless = np.full((900, 10), 0.1)
    issues = find_label_issues(planted.labels, useless, planted.features)
    assert recall_at(issues, planted.errors, 1.0) >= 0.85


def test_a_tiny_class_is_said_to_be_one_and_attracts_nobody(planted):
    labels = planted.labels.copy()
    labels[:3] = "rare"
    issues = find_label_issues(labels, features=planted.features)
    assert (issues.note[:3] == "tiny class: look at all").all()
    assert (issues.suggested[3:] == "rare").mean() < 0.05
    assert not (issues.suggested == "rare")[issues.is_issue].any()


def test_errors_that_all_run_from_one_class_to_another_rank_first(planted):
    """Where one 3 in four lies among the 5s, a doubtful 5 is likelier wrong than a doubtful 8."""
    swapped = (planted.truth == "class 3") & (np.random.default_rng(0).random(900) < 0.25)
    labels = np.where(swapped, "class 5", planted.truth)
    assert recall_at(find_label_issues(labels, features=planted.features), swapped, 1.0) >= 0.9


def test_classes_that_no_plane_divides_are_told_apart():
    features, truth = make_moons(800, noise=0.1, random_state=0)
    errors = np.random.default_rng(0).random(800) < 0.1
    issues = find_label_issues(truth ^ errors, features=features)
    assert recall_at(issues, errors, 1.0) >= 0.9


def test_the_probabilities_add_up_to_the_number_of_errors(planted):
    expected = (1 - planted.issues.p_given).sum()
    assert 0.8 <= expected / planted.errors.sum() <= 1.25


def test_confirmed_labels_are_certain(planted):
    issues = find_label_issues(planted.labels, planted.probs, trusted=~planted.errors)
    assert (issues.p_given[~planted.errors] == 1).all() and (issues.p_suggested[~planted.errors] == 0).all()


@pytest.mark.parametrize("width", [0.0, 1.0], ids=["constant", "noise"])
def test_features_that_say_nothing_of_the_classes_flag_nobody(width):
    features = 1 + width * np.random.default_rng(0).normal(size=(200, 8))
    issues = find_label_issues(["a", "b"] * 100, features=features)
    assert (issues.note == "these features say nothing of these classes").all() and not issues.is_issue.any()


def test_a_class_that_is_one_near_duplicate_group_is_not_judged(planted):
    labels, groups = planted.labels[:300].copy(), np.arange(300)
    labels[:40], groups[:40] = "copies", 0
    issues = find_label_issues(labels, features=planted.features[:300], groups=groups)
    assert issues.score[:40].isna().all() and not issues.is_issue[:40].any()
    assert issues.note[:40].str.contains("one near-duplicate group").all() and (issues.note[40:] == "").all()


def test_a_rare_class_teaches_whole_where_others_are_sampled(planted, monkeypatch):
    monkeypatch.setattr("nsfwlib.labels.heads.SAMPLE", 100)
    monkeypatch.setattr("nsfwlib.labels.heads.RARE", 20)
    codes = np.repeat([0, 1], [880, 20])
    rows, stands_for = heads._taught(codes, np.arange(900), 0)
    assert (codes[rows] == 1).sum() == 20
    assert stands_for.sum() == pytest.approx(900, rel=0.2)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({}, "Expected at least one block of features"),
        (np.full((2, 3), "x", object), "Expected features of numbers.* object"),
        (np.zeros((2, 0)), r"Expected features of numbers.*\(2, 0\)"),
        (np.full((2, 3), 1e30), r"Expected features up to 1e\+15. Received: 1e\+30"),
        (np.full((2, 3), 1e300), r"Received: 1e\+300"),
    ],
    ids=["no block", "objects", "no width", "1e30", "1e300"],
)
def test_features_that_cannot_be_computed_with_are_refused(features, message):
    with pytest.raises(ValueError, match=message):
        find_label_issues(["a", "b"], features=features)


def test_labels_of_mixed_types_are_refused():
    with pytest.raises(ValueError, match=r"Expected labels of one type. Received: \['a', 1\]"):
        find_label_issues(["a", 1], np.full((2, 2), 0.5))


@pytest.mark.parametrize("trusted", [["False", "True"], [0, 1], [True, None]])
def test_trusted_that_is_not_boolean_is_refused(trusted):
    with pytest.raises(ValueError, match="Expected trusted to hold 2 booleans"):
        find_label_issues(["a", "b"], np.full((2, 2), 0.5), trusted=trusted)


def test_what_a_person_confirmed_helps_to_judge_the_rest(planted):
    """Four labels in ten are wrong; then every other row is corrected and confirmed."""
    rng = np.random.default_rng(2)
    wrong, confirmed = rng.random(900) < 0.4, np.arange(900) % 2 == 0
    labels = np.where(wrong & ~confirmed, rng.permutation(planted.truth), planted.truth)
    errors = (labels != planted.truth)[~confirmed]
    told = find_label_issues(labels, features=planted.features, trusted=confirmed)
    untold = find_label_issues(labels, features=planted.features)
    assert told[~confirmed].score[errors].mean() > untold[~confirmed].score[errors].mean()


def test_wide_blocks_of_few_rows_are_judged_too():
    rng = np.random.default_rng(0)
    labels = np.array(["a", "b"] * 20)
    features = rng.normal(size=(40, 600)) + 2 * (labels == "a")[:, None]
    labels[0] = "b"
    assert find_label_issues(labels, features=features.astype(np.float16)).score.idxmax() == 0


def test_choosing_the_strength_on_a_sample_finds_the_errors_as_well(planted, monkeypatch):
    monkeypatch.setattr("nsfwlib.labels.heads.SAMPLE", 300)
    issues = find_label_issues(planted.labels, features=planted.features)
    assert recall_at(issues, planted.errors, 1.0) >= 0.9


def test_approximate_neighbours_rank_like_exact_ones(planted, monkeypatch):
    groups = np.arange(900) // 2
    exact = find_label_issues(planted.labels, features=planted.features, groups=groups)
    monkeypatch.setattr("nsfwlib.labels.neighbours.EXACT_ROWS", 100)
    approximate = find_label_issues(planted.labels, features=planted.features, groups=groups)
    assert exact.score.corr(approximate.score) > 0.98


def test_cleaner_labels_make_a_better_head(planted):
    held_out = np.arange(900) % 3 == 0
    scores = []
    for labels in (planted.labels, planted.truth):
        head = heads.fit_head(planted.features[~held_out], labels[~held_out], groups=np.arange(600))
        found = head.classes_[head.predict_proba(planted.features[held_out]).argmax(axis=1)]
        scores.append((found == planted.truth[held_out]).mean())
    assert scores[1] > scores[0]


def test_the_head_answers_nan_where_features_are_not_finite(planted):
    head = heads.fit_head(planted.features, planted.labels)
    features = planted.features[:4].copy()
    features[2, 5] = np.inf
    assert np.isnan(head.predict_proba(features)).any(axis=1).tolist() == [False, False, True, False]


@pytest.mark.parametrize("dtype", [object, "category", "string"])
def test_labels_of_any_text_type_mean_the_same(planted, dtype):
    expected = find_label_issues(planted.labels, planted.probs)
    pd.testing.assert_frame_equal(find_label_issues(pd.Series(planted.labels, dtype=dtype), planted.probs), expected)


def test_features_of_another_length_are_refused(planted):
    with pytest.raises(ValueError, match=r"Expected features big of shape \(900, D\).* Received shape \(3, 64\)"):
        find_label_issues(planted.labels, features={"big": planted.features[:3]})


def test_neither_probabilities_nor_features_is_refused():
    with pytest.raises(ValueError, match="Expected pred_probs or features"):
        find_label_issues(["a", "b"])


@pytest.mark.parametrize(
    ("features", "says"),
    [
        ({}, "at least one block of features"),
        ([], "at least one block of features"),
        (np.ones((6, 2), object), "features of numbers"),
        (np.ones((6, 0)), "features of numbers"),
        (np.full((6, 2), 1e30), r"up to 1e\+15. Received: 1e\+30"),
        (np.full((6, 2), 1e300), r"up to 1e\+15. Received: 1e\+300"),
        (np.full((6, 2), np.iinfo(np.int64).min), r"up to 1e\+15. Received: 9.22337e\+18"),
        (np.full((6, 2), np.nan), "none of them finite"),
    ],
)
def test_features_that_nobody_can_compute_with_are_refused(features, says):
    with pytest.raises(ValueError, match=says):
        find_label_issues(["a", "b"] * 3, features=features)


def test_labels_in_two_columns_are_refused():
    with pytest.raises(ValueError, match=r"Received shape \(3, 2\)"):
        find_label_issues(np.full((3, 2), "a"), features=np.eye(3))


@pytest.mark.parametrize("features", [np.ones((900, 4)), np.random.default_rng(0).normal(size=(900, 300))])
def test_features_that_say_nothing_doubt_no_label(planted, features):
    issues = find_label_issues(planted.labels, features=features)
    assert not issues.is_issue.any() and (1 - issues.p_given).sum() < 0.02 * 900
    assert (issues.note == "these features say nothing of these classes").all()


def test_the_cut_reaches_a_sub_kind_whose_neighbours_are_all_misfiled_alike():
    """A corner of one class, one in seven of it, lies under the class that is likest."""
    rng = np.random.default_rng(0)
    truth = rng.integers(10, size=1000)
    features = rng.normal(size=(10, 24))[truth] + rng.normal(size=(1000, 24))
    corner = features[:, :3].sum(axis=1)
    errors = (truth == 0) & (corner > np.quantile(corner[truth == 0], 0.85))
    means = np.stack([features[truth == name].mean(axis=0) for name in range(1, 10)])
    likest = 1 + np.linalg.norm(means - features[errors].mean(axis=0), axis=1).argmin()
    issues = find_label_issues(np.where(errors, likest, truth), features=features)
    assert issues.is_issue[errors].mean() >= 0.6 and errors[issues.is_issue].mean() >= 0.6


@pytest.fixture(scope="module")
def misfiled_sub_kind():
    """Four classes of six clusters; one whole cluster of class 0 lies under class 1, where it has no likeness."""
    rng = np.random.default_rng(0)
    truth, kind = rng.integers(4, size=800), rng.integers(6, size=800)
    centres = rng.normal(size=(4, 1, 16)) + 0.5 * rng.normal(size=(4, 6, 16))
    errors = (truth == 0) & (kind == 0)
    features = centres[truth, kind] + 0.5 * rng.normal(size=(800, 16))
    return SimpleNamespace(features=features, errors=errors, given=np.where(errors, 1, truth))


def test_a_sub_kind_that_vouches_for_itself_is_judged_by_what_never_saw_it(misfiled_sub_kind):
    issues = find_label_issues(misfiled_sub_kind.given, features=misfiled_sub_kind.features)
    assert recall_at(issues, misfiled_sub_kind.errors, 1.0) >= 0.9
    assert issues.is_issue[misfiled_sub_kind.errors].mean() >= 0.9
    assert misfiled_sub_kind.errors[issues.is_issue].mean() >= 0.8


def test_a_sub_kind_of_which_a_person_confirmed_some_is_doubted_no_more(misfiled_sub_kind):
    confirmed = misfiled_sub_kind.errors & (np.random.default_rng(1).random(800) < 0.6)
    given, features = misfiled_sub_kind.given, misfiled_sub_kind.features
    issues = find_label_issues(given, features=features, trusted=confirmed)
    assert issues.is_issue[misfiled_sub_kind.errors & ~confirmed].mean() <= 0.3


def test_few_voters_judge_the_sub_kinds_of_many_rows_as_well(misfiled_sub_kind, monkeypatch):
    monkeypatch.setattr("nsfwlib.labels.issues.VOTERS", 300)
    issues = find_label_issues(misfiled_sub_kind.given, features=misfiled_sub_kind.features)
    assert recall_at(issues, misfiled_sub_kind.errors, 1.0) >= 0.9


def test_no_sub_kind_divides_a_near_duplicate_group():
    rng = np.random.default_rng(0)
    codes, groups, valid = (
        np.repeat([0, 1, 2, heads.UNLABELLED], [60, 60, 6, 4]),
        np.arange(130) // 2,
        np.ones(130, bool),
    )
    kinds = heads.sub_kinds(rng.normal(size=(130, 5)), codes, valid, groups, 0)
    assert (kinds[::2] == kinds[1::2]).all() and (kinds[120:] < 0).all()
    assert [len(set(kinds[codes == code])) for code in (0, 1)] == [6, 6] and not {*kinds[:60]} & {*kinds[60:120]}


def test_the_index_proposes_the_nearest_where_all_rows_point_nearly_the_same_way(monkeypatch):
    """As pooled features of a network do: a common mean, small differences."""
    rng = np.random.default_rng(0)
    rows = 6 + rng.normal(size=(2000, 24)) @ rng.normal(size=(24, 256)) / 5 + rng.normal(size=(2000, 256)) / 3
    unit = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    everybody = np.arange(2000)
    _, exact = neighbours._nearest(unit, everybody, everybody, 20)
    monkeypatch.setattr("nsfwlib.labels.neighbours.EXACT_ROWS", 100)
    _, proposed = neighbours._nearest(unit, everybody, everybody, 20)
    assert np.mean([len({*a} & {*b}) / 20 for a, b in zip(exact, proposed, strict=True)]) >= 0.95
