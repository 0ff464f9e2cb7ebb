"""Do thresholds keep their wish and does the temperature help, where labels are wrong and pictures come in series?

    python benchmarks/honest_thresholds.py [--runs 400] [--rows 2000] [--only NAME]

Scores are normal around 0 (safe) and 2.8 (unsafe), so that the true rates of every threshold are known. Prints, for
each wish and setting, how often a threshold was refused, how often the true rates keep the wish where it was not, how
often the interval on a test set holds the true rate, and its bias. Asserts nothing.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import pandas as pd
from scipy.stats import norm

from nsfwlib import evaluate, labels
from nsfwlib.evaluate.audit import allocated

APART = 2.8  # standard deviations between safe and unsafe scores
CLASSES = list("abcde")
WISHES = [("fpr", 0.01, 0.5), ("recall", 0.95, 0.5), ("precision", 0.9, 0.5), ("precision", 0.9, 0.1),
          ("precision", 0.9, 0.01), ("reviewed", 5000, 0.1)]  # fmt: skip
SETTINGS = {  # noise of the labels, how rows are audited, mean size of near-duplicate groups
    "clean": (0.0, "", 1), "clean, groups": (0.0, "", 5), "2 % noise, labels": (0.02, "", 1),
    "2 % noise, audited": (0.02, "half", 1), "5 % noise, audited": (0.05, "half", 1),
    "5 % noise, audited, groups": (0.05, "half", 5), "clean, coin toss": (0.0, "", 1),
    "5 % noise, 400 looks, even": (0.05, "even", 1), "5 % noise, 400 looks, disagreements": (0.05, "apart", 1),
    "5 % noise, 400 looks, near the threshold": (0.05, "near", 1),
}  # fmt: skip
LOOKS = 400


def draw_rows(n, rng, *, noise=0.0, audited="", size=1):
    """`Judged` rows, alike within groups of 1 to 2·size − 1, as labels have them or as an audit of them finds them."""
    groups = np.repeat(np.arange(n), rng.integers(1, 2 * size, n))[:n]
    unsafe = (rng.random(n) < 0.5)[groups]
    alike = 0.9 if size > 1 else 0.0
    score = APART * unsafe + alike * rng.normal(size=n)[groups] + np.sqrt(1 - alike**2) * rng.normal(size=n)
    given = unsafe ^ (rng.random(n) < noise)
    if not audited:
        return evaluate.Judged(given, score, None, groups)
    apart = given != (score > APART / 2)
    if audited == "half":  # of the agreements, and all disagreements
        chance = np.where(apart, 1.0, 0.5)
        return evaluate.Judged(unsafe, score, (rng.random(n) < chance) / chance, groups)
    near = np.abs(score - APART / 2) < 1
    kinds = {"even": np.zeros(n, int), "apart": 2 * apart, "near": np.where(apart, 2, near)}[audited]
    size = pd.Series(kinds).value_counts()
    quota = allocated(size, pd.Series([0.1, 0.2, 0.45], range(3))[size.index], LOOKS)
    place = pd.Series(rng.permutation(n)).groupby(kinds).rank().to_numpy()
    weights = np.where(place <= quota[kinds], (size / quota)[kinds], 0.0)
    return evaluate.Judged(unsafe, score, weights, groups)


def true_rates(threshold):
    return {"recall": norm.sf(threshold - APART), "fpr": norm.sf(threshold)}


def keeps(row, kind, wish, prevalence):
    """Whether the true rates of a row's thresholds keep its wish."""
    high, low = (true_rates(row[name]) for name in ("threshold", "review_from"))
    precise = (1 - wish) * prevalence * high["recall"] >= wish * (1 - prevalence) * high["fpr"]
    if kind == "reviewed":
        shares = [low[name] - high[name] for name in ("recall", "fpr")]
        load = 100_000 * (prevalence * shares[0] + (1 - prevalence) * shares[1])
        return load <= wish and high["fpr"] <= 0.001
    return {"recall": high["recall"] >= wish, "fpr": high["fpr"] <= wish, "precision": precise}[kind]


def threshold_runs(setting, *, runs, rows):
    """One row a wish: shares of runs refused and kept, and what the test set says of the rates."""
    noise, audited, size = SETTINGS[setting]
    found = []
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        validation, test = (draw_rows(rows, rng, noise=noise, audited=audited, size=size) for _ in range(2))
        for kind, wish, prevalence in WISHES:
            row = evaluate.operating_points(
                test.unsafe, test.score, weights=test.weights, groups=test.groups, validation=validation,
                wishes=[(kind, wish)], prevalence=[prevalence], seed=seed, promise=None if "coin" in setting else 0.95,
            ).iloc[0]  # fmt: skip
            refused = np.isnan(row["threshold"])
            facts = {"wish": f"{kind} {wish:g} at {prevalence:g}", "refused": float(refused)}
            if not refused:
                facts["kept"] = float(keeps(row, kind, wish, prevalence))
                truth = true_rates(row["threshold"]) | {"recall": true_rates(row["review_from"])["recall"]}
                for name, value in truth.items():
                    facts[f"{name} covered"] = float(row[f"{name}_low"] <= value <= row[f"{name}_high"])
                    facts[f"{name} bias"] = 100 * (row[name] - value)
                facts["recall"] = truth["recall"]
            found.append(facts)
    return pd.DataFrame(found).groupby("wish", sort=False).mean()


def calibration_error(probs, truth):
    bins = np.ceil(15 * probs.max(axis=1)).astype(int)
    return np.abs(np.bincount(bins, (probs.argmax(axis=1) == truth) - probs.max(axis=1))).sum() / len(truth)


def draw_answers(n, rng, temperature):
    """True classes (N,), and probabilities (N, 5) that are honest once divided by the temperature."""
    probs = np.exp(2.2 * rng.normal(size=(n, 5)))
    probs /= probs.sum(axis=1, keepdims=True)
    truth = (probs.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(0, 4)
    return truth, evaluate.apply_temperature(probs, 1 / temperature)


def temperature_runs(right, noise, *, runs, rows=600):
    """Calibration error in points against truth: without a temperature, and with each way to fit one; worst in ()."""
    truth, probs = draw_answers(40_000, np.random.default_rng(10**6), right)
    names, before = np.array(CLASSES, object), 100 * calibration_error(probs, truth)
    found = []
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        here, said = draw_answers(rows, rng, right)
        given = np.where(rng.random(rows) < noise, (here + rng.integers(1, 5, rows)) % 5, here)
        chance = np.where(given == said.argmax(axis=1), 0.25, 1.0)
        seen = rng.random(rows) < chance
        joint = labels.noise_matrix(names[given], said, classes=CLASSES).to_numpy()
        options, logs = {"class_names": CLASSES}, np.log(said)
        fits = {
            "labels": evaluate.fit_temperature(names[given], logs, **options),
            "noise in the loss": evaluate.fit_temperature(names[given], logs, noise=joint, **options),
            "audited": evaluate.fit_temperature(names[here[seen]], logs[seen], weights=1 / chance[seen], **options),
        }
        found.append({k: 100 * calibration_error(evaluate.apply_temperature(probs, t), truth) for k, t in fits.items()})
    table = pd.DataFrame(found)
    texts = {name: f"{column.mean():.1f} ({column.max():.1f})" for name, column in table.items()}
    return {"right T": right, "noise": noise, "T = 1": f"{before:.1f}"} | texts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--only", default="", help="temperature, thresholds, or a part of a setting's name")
    options = parser.parse_args()
    start = time.perf_counter()
    for name in SETTINGS if options.only == "thresholds" else [name for name in SETTINGS if options.only in name]:
        table = threshold_runs(name, runs=options.runs, rows=options.rows)
        print(f"\n{name}\n{table.round(3).to_string()}", flush=True)
    settings = [(right, noise) for right in (1.35, 1.0, 0.8) for noise in (0.0, 0.05, 0.1, 0.2)]
    if options.only in ("", "temperature"):
        fits = [temperature_runs(*setting, runs=options.runs // 4) for setting in settings]
        print(pd.DataFrame(fits).to_string(index=False))
    print(f"{time.perf_counter() - start:.0f} s")
