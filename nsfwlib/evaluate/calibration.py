"""Is a probability of 0.8 right in 80 of 100 cases, and which temperature makes it so?"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from nsfwlib.evaluate.confusion import class_codes
from nsfwlib.evaluate.intervals import share_interval
from nsfwlib.evaluate.metrics import BINS, TINY, compare, confidence_bins, log_losses
from nsfwlib.labels import check_probs


def calibration_table(
    labels: Sequence[str],
    pred_probs: np.ndarray,
    *,
    class_names: Sequence[str],
    groups: Sequence[int] | None = None,
    weights: Sequence[float] | None = None,
) -> pd.DataFrame:
    """Confidence against accuracy, one row for each of 15 bins; `weights` (N,) above 0 are those of audited rows.

    Returns:
        `low_edge`, `high_edge`, `count`, `confidence`, `accuracy` (NaN in bins without an image), and `low` and
        `high` of the accuracy.
    """
    codes = class_codes(labels, class_names)
    probs = check_probs(pred_probs, len(codes), len(class_names))
    confidence, which = confidence_bins(probs)
    right = probs.argmax(axis=1) == codes
    weight = np.ones(len(codes)) if weights is None else np.asarray(weights, dtype=float)
    found = share_interval(right, groups, among=[which == b for b in range(BINS)], weights=weight)
    edges = np.linspace(0, 1, BINS + 1)
    table = pd.DataFrame({"low_edge": edges[:-1], "high_edge": edges[1:], "count": found.rows})
    total, whole = (np.bincount(which, weights=part, minlength=BINS) for part in (weight * confidence, weight))
    table["confidence"] = total / np.where(whole > 0, whole, np.nan)
    return table.assign(accuracy=found.value, low=found.low, high=found.high)


def fit_temperature(
    labels: Sequence[str],
    log_probs: np.ndarray,
    *,
    class_names: Sequence[str],
    weights: Sequence[float] | None = None,
    noise: np.ndarray | None = None,
    groups: Sequence[int] | None = None,
) -> float:
    """Temperature T > 0 that minimises the log-loss of softmax(log_probs / T); fit it on validation rows.

    Wrong labels ask for doubt that the truth does not. With `noise` they are explained by it (forward correction:
    Patrini et al., Making Deep Neural Networks Robust to Label Noise, 2017); since it is itself estimated, and the
    model's own errors pass for noise, T is that nearest to 1 between the fits with and without it.

    Args:
        labels: (N,) class of each row: audited where there are enough, else as they are.
        log_probs: (N, K) logits, or logarithms of probabilities: softmax does not see the difference.
        class_names: of the columns.
        weights: (N,) above 0, what each audited row stands for.
        noise: (K, K) how many rows of each label (rows) truly belong to each class, as from `labels.noise_matrix`.
        groups: (N,) near-duplicate group of each row.

    Returns:
        T, between 0.05 and 20; above 1 the model was over-confident. Dividing never changes the top class. It is 1
        where the interval of what it gains in log-loss does not lie above 0, with the noise and without.
    """
    logs = log_softmax(check_probs(log_probs, len(labels), len(class_names)), axis=1)
    if not len(labels):
        raise ValueError("Expected validation rows to fit a temperature on. Received: none; keep T = 1.")
    weight = np.ones(len(labels)) if weights is None else np.asarray(weights, dtype=float)
    mixings = [np.eye(len(class_names)), *([] if noise is None else [_given_truth(noise)])]

    def losses(log_t: float, mixing: np.ndarray) -> np.ndarray:
        return log_losses(labels, apply_temperature(np.exp(logs), np.exp(log_t)) @ mixing, class_names=class_names)

    found = [
        minimize_scalar(lambda log_t, m=m: weight @ losses(log_t, m), bounds=np.log([0.05, 20]), method="bounded").x
        for m in mixings
    ]
    chosen = found[0] if noise is None else np.clip(0.0, min(found), max(found))
    rows = {"groups": groups, "weights": weight}
    gains = [compare(-losses(chosen, mixing), -losses(0.0, mixing), **rows)["low"] for mixing in mixings]
    return float(np.exp(chosen)) if min(gains) > 0 else 1.0


def _given_truth(noise: np.ndarray) -> np.ndarray:
    """(K, K) chance of each label (columns) given the true class (rows); classes never seen keep their own."""
    counts = np.asarray(noise, dtype=float).T
    total = counts.sum(axis=1, keepdims=True)
    return np.where(total > 0, counts / np.where(total > 0, total, 1), np.eye(len(counts)))


def apply_temperature(pred_probs: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities (N, K) after dividing their logarithms by the temperature; the top class stays."""
    logs = np.log(np.clip(np.asarray(pred_probs, dtype=float), TINY, None))
    return np.exp(log_softmax(logs / temperature, axis=1))
