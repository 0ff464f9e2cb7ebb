"""Do audits of noisily labelled pictures tell the truth? Bias, coverage and width of every number, on planted truth.

    python benchmarks/honest_audit.py [--audits 600] [--only NAME]

Each line is one number in one world, of so many audits: bias and width in points (of log-loss in hundredths), coverage
of the 95 % interval in per cent, the forecast width of `audit_costs` against what came. Asserts nothing.
"""

import argparse
import time
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.metrics import f1_score

from nsfwlib.evaluate import intervals
from nsfwlib.evaluate.audit import audit_costs, audited_accuracy, audited_confusion, audited_scores, draw_audit
from nsfwlib.evaluate.reviewers import Slips, reviewer_accuracies

NAMES = list("abcde")
K = len(NAMES)


class World(NamedTuple):
    """One kind of test set and of people who look at it."""

    rows: int = 1000
    budget: int = 150
    sharp: float = 2.6  # of the model
    noise: float = 0.08  # share of labels drawn anew
    hidden: float = 0.0  # share of rows that label and model have wrong alike
    alike: int = 1  # mean rows of a near-duplicate group, exponential
    judge: float = 2.6  # sharpness; 0 knows nothing
    boast: float = 1.0  # above 1 the judge is surer than it should be
    unsure: float = 0.0  # share of the hardest rows that nobody can tell
    slips: float = 0.0  # of whoever audits
    others: tuple = ()  # slips of those who look again; like the first one by default
    kept: float = 0.0  # share of wrong labels that were confirmed in review, of what is drawn from `reviewed`
    reviewed: float = 0.0
    scores: bool = False  # balanced accuracy, Brier score and log-loss, too


WORLDS = {
    "plain": World(scores=True),
    "small": World(rows=500, budget=60, scores=True),
    "large": World(rows=5000, budget=400),
    "50,000 rows, 200 looks": World(rows=50_000, budget=200, sharp=2.1, noise=0.08),
    "all disagreements": World(budget=400),
    "0.05 % hidden": World(sharp=9, noise=0.02, hidden=0.0005),
    "0.2 % hidden": World(sharp=9, noise=0.05, hidden=0.002, scores=True),
    "0.4 % hidden": World(sharp=9, noise=0.05, hidden=0.004, budget=300),
    "99.6 % right": World(sharp=4.6, noise=0.02, scores=True),
    "5 % hidden": World(hidden=0.05),
    "groups of 4": World(alike=4, scores=True),
    "groups of 10": World(rows=2000, alike=10, budget=300),
    "groups of 4, 0.2 % hidden": World(sharp=9, noise=0.05, hidden=0.002, alike=4),
    "judge knows nothing": World(judge=0),
    "judge boasts": World(boast=3),
    "labels 30 % wrong": World(noise=0.4),
    "review kept half": World(reviewed=0.5, kept=0.5),
    "hardest tenth unsure": World(unsure=0.1),
    "slips of 2 %": World(slips=0.02),
    "slips of 5 %": World(slips=0.05, budget=250),
    "slips of 10 %": World(slips=0.1, budget=250),
    "slips of 10 %, two others 2 %": World(slips=0.1, others=(0.02, 0.02), budget=250),
    "slips of 2 %, two others 10 %": World(slips=0.02, others=(0.1, 0.1), budget=250),
}


class Set(NamedTuple):
    """A drawn test set; classes as codes."""

    truth: np.ndarray
    labels: np.ndarray
    probs: np.ndarray  # (N, K) the model's
    judge: np.ndarray  # (N, K)
    groups: np.ndarray
    hard: np.ndarray  # (N,) how hard to tell


def draw_set(world: World, rng: np.random.Generator) -> Set:
    """Truth and views are those of the group, labels too for half of the noise."""
    n = world.rows
    groups = np.arange(n) if world.alike == 1 else np.sort(rng.integers(0, max(n // world.alike, 1), n))
    g = groups.max() + 1
    truth, views = rng.integers(0, K, g)[groups], rng.normal(size=(2, g, K))[:, groups]
    exact = np.eye(K)[truth]
    mine, other = world.sharp * exact + views[0], world.judge * exact + 0.6 * views[0] + 0.8 * views[1]
    wrong = (truth + rng.integers(1, K, g)[groups]) % K
    hidden = rng.random(g)[groups] < world.hidden
    mine[hidden, wrong[hidden]] += 3 * world.sharp
    labels = np.where(rng.random(g)[groups] < world.noise, rng.integers(0, K, g)[groups], truth)
    labels[hidden] = wrong[hidden]
    judge = (1 - world.noise) * softmax(world.boast * world.judge * other) + world.noise / K
    return Set(
        truth, labels, softmax(world.sharp * mine), judge, groups, rng.random(g)[groups] - exact_margin(mine, truth)
    )


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def exact_margin(view: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(N,) how far the true class leads in a view."""
    rest = view.copy()
    rest[np.arange(len(view)), truth] = -np.inf
    return view[np.arange(len(view)), truth] - rest.max(axis=1)


def scores_of(some: Set) -> pd.Series:
    """The true numbers of a set."""
    top, p = some.probs.argmax(axis=1), np.clip(some.probs[np.arange(len(some.truth)), some.truth], 1e-7, None)
    return pd.Series({
        "accuracy": (top == some.truth).mean(),
        "balanced accuracy": np.mean([(top == some.truth)[some.truth == k].mean() for k in range(K)]),
        "macro F1": f1_score(some.truth, top, average="macro"),
        "Brier score": (np.square(some.probs).sum(axis=1) - 2 * some.probs[np.arange(len(p)), some.truth] + 1).mean(),
        "log-loss": -np.log(p).mean(),
        "label errors": (some.labels != some.truth).mean(),
    })  # fmt: skip


def audit_once(world: World, seed: int) -> list[dict]:
    """What one audit says: number, value, low, high."""
    rng = np.random.default_rng(seed)
    some, names = draw_set(world, rng), np.array(NAMES, object)
    predicted, labels = names[some.probs.argmax(axis=1)], some.labels.copy()
    reviewed = rng.random(world.rows) < world.reviewed
    mended = reviewed & (rng.random(world.rows) >= world.kept)
    labels[mended] = some.truth[mended]
    options = {"class_names": NAMES, "budget": world.budget, "seed": seed}
    audit = draw_audit(names[labels], predicted, some.judge, reviewed=reviewed, **options)
    audit["group"] = some.groups
    answers = [slipped(some.truth, slips, rng) for slips in (world.slips, *(world.others or (world.slips,)))]
    told = audit["picked"].to_numpy() & ~(
        some.hard > np.quantile(some.hard, 1 - world.unsure) if world.unsure else False
    )
    verdict = np.where(told, names[answers[0]], None)
    how = {"seed": seed}
    found = audited_accuracy(verdict, predicted, audit, **how)
    rows = [{"number": "accuracy"} | found]
    if world.unsure:
        return [
            {"number": "accuracy, whatever they are"} | found | {"low": found["worst_low"], "high": found["worst_high"]}
        ]
    if world.slips:
        twice = rng.permutation(np.flatnonzero(told))[:60]
        cleared = audited_accuracy(verdict, predicted, audit, slips=slips_of(answers, twice, some.groups), **how)
        return [
            {"number": "accuracy, slips taken out"} | cleared,
            {"number": "accuracy as answered (no claim)"} | found,
        ]
    held = audited_accuracy(verdict, names[some.labels], audit, **how)
    rows.append(
        {"number": "label errors", "value": 1 - held["value"], "low": 1 - held["high"], "high": 1 - held["low"]}
    )
    if not world.scores:
        return rows
    others = audited_scores(verdict, some.probs, audit, class_names=NAMES, **how).iloc[1:]
    return rows + others.rename(columns={"score": "number"}).to_dict("records")


def slipped(truth: np.ndarray, rate: float, rng: np.random.Generator) -> np.ndarray:
    """Answers with this share of wrong ones."""
    return np.where(rng.random(len(truth)) < rate, (truth + rng.integers(1, K, len(truth))) % K, truth)


def slips_of(answers: list[np.ndarray], twice: np.ndarray, groups: np.ndarray) -> Slips:
    """How often the first of these reviewers is right, from rows that all of them saw."""
    rows = [{"sha256": twice, "reviewer": who, "answer": said[twice]} for who, said in enumerate(answers)]
    table = pd.concat([pd.DataFrame(some).assign(group=groups[twice]) for some in rows])
    found = reviewer_accuracies(table, classes=K).loc[0]
    return Slips(found[0], found[1:].to_numpy(), K, len(twice))


def confusion_coverage(world: World, audits: int, target: np.ndarray) -> pd.DataFrame:
    """Share of the matrix' cells inside their intervals."""
    rows = []
    for seed in range(audits):
        some, names = draw_set(world, np.random.default_rng(seed)), np.array(NAMES, object)
        predicted = names[some.probs.argmax(axis=1)]
        audit = draw_audit(names[some.labels], predicted, some.judge, class_names=NAMES, budget=world.budget, seed=seed)
        audit["group"] = some.groups
        verdict = np.where(audit["picked"], names[some.truth], None)
        matrix, cells = audited_confusion(verdict, predicted, audit, class_names=NAMES, seed=seed)
        share = matrix / matrix.sum(axis=1, keepdims=True)
        inside = ((cells[..., 0] <= target) & (target <= cells[..., 1])).mean()
        rows.append({"bias": (share - target).mean(), "coverage": inside, "width": np.ptp(cells, axis=-1).mean()})
    return pd.DataFrame(rows)


def stopping_coverage(world: World, audits: int, target: float, every: int = 15) -> pd.DataFrame:
    """Whoever looks after every so many answers and stops when the estimate looks best: is the truth inside then?"""
    rows = []
    for seed in range(audits):
        some, names = draw_set(world, np.random.default_rng(seed)), np.array(NAMES, object)
        predicted = names[some.probs.argmax(axis=1)]
        audit = draw_audit(names[some.labels], predicted, some.judge, class_names=NAMES, budget=world.budget, seed=seed)
        place = (
            audit["order"]
            / audit[audit["picked"]].groupby("stratum")["order"].max().add(1)[audit["stratum"]].to_numpy()
        )
        place = place.where(audit["picked"]).rank()
        looks = []
        for n in range(30, int(audit["picked"].sum()) + 1, every):
            verdict = np.where(place <= n, names[some.truth], None)
            found = audited_accuracy(verdict, predicted, audit, seed=seed)
            wider = intervals.at_any_time(found["high"] - found["low"], n, int(audit["picked"].sum())) / (
                found["high"] - found["low"]
            )
            low, high = (found["value"] + wider * (found[end] - found["value"]) for end in ("low", "high"))
            looks.append((low <= target <= high, found["low"] <= target <= found["high"], high - low, found["value"]))
        inside, plain, width, value = zip(*looks, strict=True)
        best = int(np.argmax(value))
        rows.append({"bias": value[best] - target, "coverage": all(inside), "width": width[-1], "fixed": all(plain)})
    return pd.DataFrame(rows)


def table(audits: int, only: str = "") -> pd.DataFrame:
    """One row a world and number."""
    lines = []
    for name, world in WORLDS.items():
        if only not in name:
            continue
        true = scores_of(draw_set(world._replace(rows=400_000, alike=1), np.random.default_rng(10**6)))
        runs = pd.DataFrame([row for seed in range(audits) for row in audit_once(world, seed)])
        plain_name = runs["number"].str.split(",").str[0].str.removesuffix(" as answered (no claim)")
        target = plain_name.map(true)
        runs["bias"], runs["width"] = runs["value"] - target, runs["high"] - runs["low"]
        runs["coverage"] = (runs["low"] <= target) & (target <= runs["high"])
        found = runs.groupby("number", sort=False)[["bias", "coverage", "width"]].mean()
        found.insert(0, "true", true.reindex(found.index))
        if "accuracy" in found.index:
            planned = np.mean([forecast(world, seed) for seed in range(5)]) / 100
            found.loc["accuracy", "forecast"] = planned / found.loc["accuracy", "width"]
        lines.append(found.reset_index().assign(world=name))
    return pd.concat(lines).set_index(["world", "number"])


def forecast(world: World, seed: int) -> float:
    """Width in points that `audit_costs` foretells."""
    some, names = draw_set(world, np.random.default_rng(seed)), np.array(NAMES, object)
    predicted = names[some.probs.argmax(axis=1)]
    audit = draw_audit(names[some.labels], predicted, some.judge, class_names=NAMES, budget=world.budget, seed=seed)
    return audit_costs({"test": audit.assign(group=some.groups)}, budgets=[world.budget], seed=seed)["width"].iloc[0]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--audits", type=int, default=600)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    start, intervals.DRAWS = time.perf_counter(), 1000
    found = table(options.audits, options.only)
    plain = WORLDS["plain"]
    big = draw_set(plain._replace(rows=400_000), np.random.default_rng(10**6))
    matrix = np.bincount(big.truth * K + big.probs.argmax(axis=1), minlength=K * K).reshape(K, K)
    cells = confusion_coverage(plain, options.audits // 3, matrix / matrix.sum(axis=1, keepdims=True)).mean()
    found.loc[("plain", "confusion cells"), cells.index] = cells
    stops = stopping_coverage(plain, options.audits // 3, scores_of(big)["accuracy"]).mean()
    found.loc[("plain", "accuracy, stopped at its best"), ["bias", "coverage", "width"]] = stops
    found[["bias", "coverage", "width"]] *= 100
    print(found.round(2).to_string(na_rep=""))
    print(f"the fixed interval, looked at all the time: {100 * stops['fixed']:.1f}")
    print(f"{time.perf_counter() - start:.0f} s")
