"""Do the intervals cover what they promise? Simulated test sets with rare cells and near-duplicate groups.

    python benchmarks/intervals.py [--draws 1000] [--images 1000]

Prints coverage of the 95 % intervals in per cent. Audits: `honest_audit.py`. Asserts nothing.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import pandas as pd

from nsfwlib import evaluate

NAMES = ["drawings", "hentai", "neutral", "porn", "sexy"]
UNSAFE = ["hentai", "porn", "sexy"]
CONFUSION = np.array([  # the published 90 % matrix, its empty cells at 0.1 %
    [0.90, 0.09, 0.01, 0.001, 0.001],
    [0.13, 0.87, 0.001, 0.001, 0.001],
    [0.03, 0.001, 0.92, 0.02, 0.03],
    [0.001, 0.01, 0.01, 0.85, 0.12],
    [0.01, 0.001, 0.02, 0.08, 0.89],
])  # fmt: skip


def draw_groups(n, rng, *, alone=0.7):
    """(N,) groups: about 70 % of images alone, the others in series of 2 to 6."""
    sizes = np.where(rng.random(n) < alone, 1, rng.integers(2, 7, size=n))
    return np.repeat(np.arange(n), sizes)[:n]


def draw_predictions(n, rng, *, groups=None, alike=0.9):
    """Labels as codes (N,) and pred_probs (N, 5); members of a group share class and most of the noise."""
    groups = np.arange(n) if groups is None else groups
    truth = rng.integers(5, size=groups.max() + 1)[groups]
    shared = rng.gumbel(size=(groups.max() + 1, 5))[groups]
    own = np.repeat(rng.random(n)[:, None] < alike, 5, axis=1)
    noise = np.where(own, shared, rng.gumbel(size=(n, 5)))  # Gumbel: the top class follows the confusion matrix
    logits = np.log(CONFUSION)[truth] + noise
    probs = np.exp(1.3 * (logits - logits.max(axis=1, keepdims=True)))
    return truth, probs / probs.sum(axis=1, keepdims=True)


def score_table(truth, probs, groups):
    """Every estimate with an interval, as one table indexed by name."""
    labels, predicted = np.array(NAMES, object)[truth], np.array(NAMES, object)[probs.argmax(1)]
    table = evaluate.scores(labels, probs, class_names=NAMES, groups=groups)
    table.index = table["score"] + " " + table["class"]
    parts = [table[["value", "low", "high"]]]
    matrix = evaluate.confusion_matrix(labels, predicted, class_names=NAMES)
    cells = evaluate.confusion_intervals(labels, predicted, class_names=NAMES, groups=groups)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    names = [f"cell {a} → {b}" for a in NAMES for b in NAMES]
    parts.append(
        pd.DataFrame({"value": shares.ravel(), "low": cells[..., 0].ravel(), "high": cells[..., 1].ravel()}, names)
    )
    unsafe = np.isin(labels, UNSAFE)
    score = evaluate.unsafe_score(probs, class_names=NAMES, unsafe_classes=UNSAFE)
    points = evaluate.at_threshold(unsafe, score, 0.8, prevalence=[0.5, 0.01], groups=groups, draws=2000)
    for _, row in points.iterrows():
        for name in ("recall", "fpr", "precision", "flagged", "missed"):
            values = {"value": row[name], "low": row[f"{name}_low"], "high": row[f"{name}_high"]}
            parts.append(pd.DataFrame(values, [f"threshold 0.8, prevalence {row['prevalence']:g}: {name}"]))
    right, other = probs.argmax(1) == truth, np.where(unsafe, probs.argmax(1) == truth, score < 0.3)
    pair = evaluate.compare(right, other, groups=groups)
    parts.append(pd.DataFrame({"value": pair["difference"], "low": pair["low"], "high": pair["high"]}, ["difference"]))
    return pd.concat(parts)


def coverage_of_scores(draws, images, seed=0):
    rng = np.random.default_rng(seed)
    truth = score_table(*draw_predictions(100_000, rng), groups=None)["value"]
    covered, width = 0, 0
    for _ in range(draws):
        groups = draw_groups(images, rng)
        table = score_table(*draw_predictions(images, rng, groups=groups), groups=groups)
        covered = covered + ((table["low"] <= truth) & (truth <= table["high"]))
        width = width + (table["high"] - table["low"])
    return pd.DataFrame({"truth": truth, "coverage": 100 * covered / draws, "width": width / draws})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--images", type=int, default=1000)
    options = parser.parse_args()
    start = time.perf_counter()
    print(coverage_of_scores(options.draws, options.images).round(3).to_string())
    print(f"{time.perf_counter() - start:.0f} s")
