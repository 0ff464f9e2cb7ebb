"""Numbers agree with scikit-learn where it has them, and intervals say what they promise."""

import numpy as np
import pytest
from sklearn import metrics as reference

from nsfwlib import metrics

NAMES = ["drawings", "hentai", "neutral", "porn", "sexy"]


def made_up(n=600, *, seed=0, sharpness=2.0):
    """Labels (N,) and pred_probs (N, 5) of a classifier that is mostly right."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(5, size=n)
    logits = rng.normal(size=(n, 5)) + sharpness * np.eye(5)[truth]
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return np.array(NAMES, dtype=object)[truth], probs


def test_confusion_has_labels_in_rows_and_predictions_in_columns():
    matrix = metrics.confusion(
        ["porn", "porn", "sexy"], ["sexy", "porn", "sexy"], class_names=["porn", "sexy"]
    )
    assert matrix.tolist() == [[1, 1], [0, 1]]


def test_confusion_names_a_class_that_the_model_does_not_know():
    with pytest.raises(ValueError, match="unheard"):
        metrics.confusion(["porn", "unheard"], ["porn", "porn"], class_names=["porn", "sexy"])


def test_calibration_error_of_an_honest_model_is_small_and_of_a_boastful_one_is_not():
    rng = np.random.default_rng(0)
    honest = np.clip(rng.beta(8, 2, size=20_000), 0.5, 1)
    probs = np.stack([honest, 1 - honest], axis=1)
    labels = np.where(rng.random(20_000) < honest, "a", "b")
    boastful = metrics.apply_temperature(probs, 0.3)
    assert metrics.calibration_error(labels, probs, class_names=["a", "b"]) < 0.02
    assert metrics.calibration_error(labels, boastful, class_names=["a", "b"]) > 0.08


def test_fitted_temperature_undoes_a_known_one_and_keeps_the_top_class():
    labels, probs = made_up(5000)
    sharpened = metrics.apply_temperature(probs, 0.5)
    found = metrics.fit_temperature(labels, np.log(sharpened), class_names=NAMES)
    own = metrics.fit_temperature(labels, np.log(probs), class_names=NAMES)
    assert found == pytest.approx(2 * own, rel=0.02)
    assert (metrics.apply_temperature(sharpened, found).argmax(1) == probs.argmax(1)).all()


def test_scores_agree_with_scikit_learn():
    labels, probs = made_up()
    table = metrics.scores(labels, probs, class_names=NAMES).set_index(["score", "class"])
    predicted = np.array(NAMES)[probs.argmax(1)]
    assert table.loc[("accuracy", ""), "value"] == pytest.approx(
        reference.accuracy_score(labels, predicted), abs=1e-12
    )
    recall = reference.recall_score(labels, predicted, labels=NAMES, average=None)
    assert table.loc["recall", "value"].to_numpy() == pytest.approx(recall, abs=1e-12)
