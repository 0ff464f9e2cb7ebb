"""Planted label errors are found; rows that cannot be judged are said so."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits

from nsfwlib.labels import find_label_issues, fit_head, noise_matrix, out_of_sample_probs


@pytest.fixture(scope="module")
def planted():
    """The first 900 digits, 10 % of them filed under another class."""
    features, truth = load_digits(return_X_y=True)
    features, truth = features[:900], truth[:900]
    rng = np.random.default_rng(0)
    errors = rng.random(len(truth)) < 0.1
    given = np.where(errors, (truth + rng.integers(1, 10, len(truth))) % 10, truth)
    names = np.array([f"class {i}" for i in range(10)])
    return SimpleNamespace(features=features, truth=names[truth], labels=names[given], errors=errors)


def recall_at(issues, errors, budget):
    """Share of the errors among the most suspect rows, as many as budget × the number of errors."""
    first = issues.score.fillna(-9).to_numpy().argsort()[::-1][: round(budget * errors.sum())]
    return errors[first].sum() / errors.sum()


def test_planted_label_errors_rank_first(planted):
    issues = find_label_issues(planted.labels, features=planted.features)
    assert recall_at(issues, planted.errors, 1.0) >= 0.9
    assert recall_at(issues, planted.errors, 2.0) >= 0.98


def test_the_suggestion_is_mostly_the_true_class(planted):
    issues = find_label_issues(planted.labels, features=planted.features)
    assert (issues.suggested == planted.truth)[planted.errors].mean() >= 0.9


def test_the_default_cut_is_mostly_right(planted):
    issues = find_label_issues(planted.labels, features=planted.features)
    assert planted.errors[issues.is_issue].mean() >= 0.8
    assert issues.is_issue[planted.errors].mean() >= 0.7


def test_issues_from_features_and_from_their_probabilities_agree(planted):
    probs = out_of_sample_probs(planted.labels, planted.features)
    one = find_label_issues(planted.labels, features=planted.features)
    two = find_label_issues(planted.labels, probs)
    np.testing.assert_allclose(one.score, two.score, atol=1e-4)
    assert (one.suggested == two.suggested).all()


def test_the_table_keeps_the_order_and_the_index_of_the_labels(planted):
    labels = pd.Series(planted.labels, index=[f"{i}.png" for i in range(len(planted.labels))])
    issues = find_label_issues(labels, features=planted.features)
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
    issues = find_label_issues(planted.labels, features=planted.features, trusted=planted.errors)
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
    once = find_label_issues(planted.labels, features=planted.features, seed=3)
    pd.testing.assert_frame_equal(once, find_label_issues(planted.labels, features=planted.features, seed=3))


def test_the_head_keeps_the_class_order_it_was_given(planted):
    classes = ["absent", *np.unique(planted.labels)[::-1]]
    head = fit_head(planted.features, planted.labels, classes=classes)
    probs = head.predict_proba(planted.features)
    assert list(head.classes_) == classes
    assert (probs[:, 0] == 0).all()
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-5)
    assert (head.predict(planted.features) == planted.truth).mean() >= 0.9


def test_a_label_outside_the_classes_is_named(planted):
    with pytest.raises(ValueError, match=r"Expected labels in .*'a', 'b'.* Received: 'c' \(row 2"):
        find_label_issues(["a", "b", "c"], np.full((3, 2), 0.5), classes=["a", "b"])


def test_probabilities_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"Expected pred_probs of shape \(2, 2\)"):
        find_label_issues(["a", "b"], np.full((3, 2), 0.5))
