"""Do the intervals cover what they promise? Simulated test sets with rare cells and near-duplicate groups.

    python benchmarks/intervals.py [--draws 1000] [--images 1000] [--only scores|audit]

Prints coverage of the 95 % intervals in per cent, and for audits the bias in points. Asserts nothing.
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


def score_table(truth, probs, groups, *, draws):
    """Every estimate with an interval, as one table indexed by name."""
    labels, predicted = np.array(NAMES, object)[truth], np.array(NAMES, object)[probs.argmax(1)]
    table = evaluate.scores(labels, probs, class_names=NAMES, groups=groups, draws=draws)
    table.index = table["score"] + " " + table["class"]
    parts = [table[["value", "low", "high"]]]
    matrix = evaluate.confusion_matrix(labels, predicted, class_names=NAMES)
    support = evaluate.effective_support(labels, predicted, class_names=NAMES, groups=groups)
    cells = evaluate.confusion_intervals(matrix, support=support)
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
    truth = score_table(*draw_predictions(400_000, rng), None, draws=2)["value"]
    covered, width = 0, 0
    for _ in range(draws):
        groups = draw_groups(images, rng)
        table = score_table(*draw_predictions(images, rng, groups=groups), groups, draws=400)
        covered = covered + ((table["low"] <= truth) & (truth <= table["high"]))
        width = width + (table["high"] - table["low"])
    return pd.DataFrame({"truth": truth, "coverage": 100 * covered / draws, "width": width / draws})


def noisy_labels(truth, probs, second, *, kind, rate, rng):
    """Codes (N,) with a share `rate` wrong: at random, within pairs, or where both views are unsure."""
    n = len(truth)
    chosen = rng.random(n) < rate
    other = (truth + rng.integers(1, 5, size=n)) % 5
    if kind == "pair":
        other = np.array([1, 0, 4, 4, 3])[truth]
    if kind == "ambiguous":
        view = (probs + second) / 2
        view[np.arange(n), truth] -= 1  # the runner-up of a person who takes one class for another
        other = view.argmax(axis=1)
        doubt = view[np.arange(n), other] + 0.02
        chosen = rng.random(n) < np.minimum(rate * doubt / doubt.mean(), 1)
    return np.where(chosen, other, truth)


def audit_once(seed, *, images=1000, agreements=100):
    """Naive, disagreement-only and audited accuracy of one simulated test set, with the truth beside."""
    rng = np.random.default_rng(seed)
    kind, rate = ("uniform", "pair", "ambiguous")[seed % 3], rng.uniform(0.05, 0.20)
    groups = draw_groups(images, rng)
    truth, probs = draw_predictions(images, rng, groups=groups)
    second = np.exp(np.log(probs) + 0.7 * rng.gumbel(size=probs.shape))
    second /= second.sum(axis=1, keepdims=True)
    labels = noisy_labels(truth, probs, second, kind=kind, rate=rate, rng=rng)
    predicted = probs.argmax(axis=1)
    audit = evaluate.draw_audit(
        labels, predicted, 1 - second[np.arange(images), labels], agreements=agreements, seed=seed
    )
    seen = np.where(audit["picked"], truth, None)
    found = evaluate.audited_accuracy(seen, predicted, audit, groups=groups, seed=seed)
    fixed = np.where(labels != predicted, truth, labels)
    half = 1.96 * np.sqrt((fixed == predicted).mean() * (fixed != predicted).mean() / images)
    return {
        "kind": kind, "here": (truth == predicted).mean(), "naive": (labels == predicted).mean(),
        "disagreements only": (fixed == predicted).mean(), "half": half,
        "audited": found["value"], "low": found["low"], "high": found["high"], "seen": found["audited"],
    }  # fmt: skip


def audit_coverage(draws, images):
    """Bias in points, root mean square error and coverage of each estimate, by kind of noise."""
    truth, probs = draw_predictions(2_000_000, np.random.default_rng(10**6))
    target = (probs.argmax(axis=1) == truth).mean()
    runs = pd.DataFrame([audit_once(seed, images=images) for seed in range(draws)])
    runs = pd.concat([runs, runs.assign(kind="all")])
    only = runs["disagreements only"]
    table = pd.DataFrame({
        "kind": runs["kind"],
        "naive bias": 100 * (runs["naive"] - runs["here"]),
        "disagreements-only bias": 100 * (only - runs["here"]),
        "disagreements-only coverage": 100.0 * ((only - target).abs() <= runs["half"]),
        "audited bias": 100 * (runs["audited"] - runs["here"]),
        "audited squared error": (100 * (runs["audited"] - target)) ** 2,
        "audited coverage": 100.0 * ((runs["low"] <= target) & (target <= runs["high"])),
        "of this very set": 100.0 * ((runs["low"] <= runs["here"]) & (runs["here"] <= runs["high"])),
        "width": 100 * (runs["high"] - runs["low"]),
        "images seen": runs["seen"],
    })  # fmt: skip
    table = table.groupby("kind", sort=False).mean()
    table["audited RMSE"] = np.sqrt(table.pop("audited squared error"))
    return table.T


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--only", choices=["scores", "audit"])
    options = parser.parse_args()
    start = time.perf_counter()
    if options.only != "audit":
        print(coverage_of_scores(options.draws, options.images).round(3).to_string())
    if options.only != "scores":
        print(audit_coverage(options.draws, options.images).round(2).to_string())
    print(f"{time.perf_counter() - start:.0f} s")
