"""Which ranking finds most wrong labels, and is the number of errors it expects right? Ours against public peers.

    python benchmarks/label_issues.py [--sets digits,wine,…] [--seeds 2] [--work-dir build/bench]

Eight data sets that need no network × six kinds of planted noise × seeds; every method is given the same features
and the same near-duplicate groups. cleanlab's scores are given the probabilities of a logistic head whose strength
was tuned, as a careful user would, and our own mixture. Prints tables, asserts nothing. About eight minutes of one
core. `--sets demo0,demo1,demo2` adds the stand-in pictures, three seeds of them; these need the published weights
(25 MB, fetched once) and two minutes for the features.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
from cleanlab.filter import find_label_issues as cleanlab_filter
from cleanlab.multiannotator import get_active_learning_scores
from cleanlab.rank import get_label_quality_scores
from sklearn.cluster import KMeans
from sklearn.datasets import load_breast_cancer, load_digits, load_wine, make_classification, make_moons
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, normalize

from nsfwlib import demo, labels

SETS = ("digits", "wine", "tumours", "ten", "fifty", "moons", "skewed", "copies")
KINDS = ("anywhere 5 %", "anywhere 20 %", "pairs", "into the large", "hard ones", "clumps")
BLOCKS = {"mixed4": 768, "mixed6": 768, "mixed10": 2048}
CLEANLAB = ("self_confidence", "normalized_margin", "confidence_weighted_entropy")  # lower is more suspect there


def data_set(name, work_dir):
    """blocks of features, truth (N,), groups (N,); the probabilities of a head that was told the truth."""
    makers = {
        "digits": lambda: alone(*load_digits(return_X_y=True)),
        "wine": lambda: alone(*load_wine(return_X_y=True)),
        "tumours": lambda: alone(*load_breast_cancer(return_X_y=True)),
        "ten": lambda: clouds(10, 1500),
        "fifty": lambda: clouds(50, 2000),
        "moons": moons,
        "skewed": skewed,
        "copies": copies,
    }
    made = makers[name]() if name in makers else demo_features(work_dir, int(name.removeprefix("demo")))
    features = np.concatenate(made.blocks, axis=1)
    judge = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300, tol=1e-3))
    made.clean_probs = cross_val_predict(judge, features, made.truth, method="predict_proba")
    return made


def alone(features, truth):
    """Every row a group of its own."""
    return SimpleNamespace(blocks=[features], truth=truth, groups=np.arange(len(truth)))


def clouds(n_classes, n):
    """A Gaussian cloud a class in 32 dimensions, neighbours overlapping."""
    rng = np.random.default_rng(n_classes)
    truth = rng.integers(n_classes, size=n)
    return alone(rng.normal(0, 0.75, (n_classes, 32))[truth] + rng.normal(size=(n, 32)), truth)


def moons():
    """Two pairs of half-moons, four classes that no plane divides, turned into twelve dimensions with noise."""
    rng = np.random.default_rng(0)
    plane, truth = make_moons(1200, noise=0.15, random_state=0)
    far = rng.integers(2, size=len(truth))
    inner = np.column_stack([plane, 2.0 * far])
    return alone(inner @ rng.normal(size=(3, 12)) + 0.2 * rng.normal(size=(len(truth), 12)), truth + 2 * far)


def skewed():
    """Five classes from 56 % to 4 %, two clusters each; most of the 64 features are redundant or noise."""
    shape = {"n_informative": 16, "n_redundant": 24, "n_classes": 5, "n_clusters_per_class": 2}
    sizes = [0.56, 0.2, 0.12, 0.08, 0.04]
    return alone(*make_classification(1500, 64, class_sep=2.0, weights=sizes, flip_y=0, random_state=0, **shape))


def copies():
    """Two blocks like pooled features of a network: rectified mixtures of modes, three in ten near-duplicates."""
    rng = np.random.default_rng(0)
    n, n_classes, modes, width = 1500, 5, 6, 16
    centres = rng.normal(size=(n_classes, 1, width)) * 0.6 + rng.normal(size=(n_classes, modes, width)) * 0.9
    truth, groups = rng.integers(n_classes, size=n), np.arange(n)
    latent = centres[truth, rng.integers(modes, size=n)] + rng.normal(size=(n, width)) * 0.9
    for i in np.flatnonzero(rng.random(n) < 0.3)[1:]:
        j = rng.integers(i)
        latent[i], truth[i], groups[i] = latent[j] + rng.normal(size=width) * 0.08, truth[j], groups[j]
    rectified = np.maximum(latent @ rng.normal(size=(width, 512)) / 4 + rng.normal(size=(n, 512)) * 0.6 - 0.5, 0)
    blocks = np.split(rectified * np.exp(rng.normal(size=512) * 0.5), 2, axis=1)
    return SimpleNamespace(blocks=blocks, truth=truth, groups=groups)


def demo_features(work_dir, seed):
    """Three blocks of the published network on the stand-in pictures, and the labels these are filed under."""
    data_dir, cached = work_dir / f"demo{seed}", work_dir / f"demo{seed}.npz"
    table = demo.make_demo(data_dir, images_per_class=150, seed=seed)
    table = table[table["true_label"] != ""].reset_index(drop=True)
    if not cached.exists():
        from nsfwlib import data, model

        images = table[["path"]].merge(data.scan(data_dir, progress=False), on="path", how="left")
        options = {"cache_dir": work_dir, "blocks": tuple(BLOCKS), "progress": False}
        features = model.bottleneck_features(model.published_model(), images, data_dir, **options)
        np.savez(cached, paths=table["path"].to_numpy(str), features=features)
    stored = np.load(cached)
    if list(stored["paths"]) != list(table["path"]):
        raise RuntimeError(f"{cached} belongs to another demo. Remove {work_dir} and run again.")
    keep = np.isfinite(stored["features"]).all(axis=1)
    table, features = table[keep], stored["features"][keep].astype(np.float32)
    names = list(demo.CLASSES)
    return SimpleNamespace(
        blocks=np.split(features, np.cumsum(list(BLOCKS.values()))[:-1], axis=1),
        truth=table["true_label"].map(names.index).to_numpy(),
        groups=pd.factorize(table["group"])[0],
        filed=table["given_label"].map(names.index).to_numpy(),
    )


def plant(data, kind, seed):
    """Given labels (N,): which rows are wrong, and under which class they are filed, depends on the kind."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    truth, given, n = data.truth, data.truth.copy(), len(data.truth)
    n_classes = truth.max() + 1
    rivals = data.clean_probs.copy()
    rivals[np.arange(n), truth] = 0
    if kind.startswith("anywhere"):
        wrong = rng.random(n) < float(kind.split()[1]) / 100
        given[wrong] = (truth[wrong] + rng.integers(1, n_classes, wrong.sum())) % n_classes
    elif kind == "pairs":  # three in ten of some classes go to the next class, and none comes back
        confused = rng.permutation(n_classes)[: max(1, n_classes // 5)]
        wrong = np.isin(truth, confused) & (rng.random(n) < 0.3)
        given[wrong] = (truth[wrong] + 1) % n_classes
    elif kind == "into the large":  # a reviewer's habit: what is common is clicked
        shares = np.bincount(truth) ** 2.0
        wrong = rng.random(n) < 0.12
        drawn = rng.choice(n_classes, n, p=shares / shares.sum())
        given[wrong] = drawn[wrong]
    elif kind == "hard ones":
        chance = rivals.max(axis=1) + 0.002
        wrong = rng.choice(n, round(0.1 * n), replace=False, p=chance / chance.sum())
        given[wrong] = rivals[wrong].argmax(axis=1)
    else:  # a whole sub-kind of one class in two, a tenth of it, is filed under the class that is likest
        features = StandardScaler().fit_transform(np.concatenate(data.blocks, axis=1))
        for name in rng.permutation(n_classes)[: -(-n_classes // 2)]:
            rows = np.flatnonzero(truth == name)
            kinds = KMeans(min(8, len(rows)), n_init=1, random_state=seed).fit_predict(features[rows])
            sub_kind = rows[kinds == rng.integers(kinds.max() + 1)]
            given[sub_kind] = rivals[sub_kind].mean(axis=0).argmax()
    return given


def tuned_head_probs(data, given):
    """The head alone, over all blocks side by side: out of fold by group, its strength by log-loss."""
    classes = range(data.truth.max() + 1)
    groups = np.unique(data.groups, return_inverse=True)[1]
    return labels.fit_head(np.concatenate(data.blocks, axis=1), given, classes=classes, groups=groups).out_of_fold


def neighbours_against(data, given, k=10):
    """SimiFeat's local vote, our re-implementation: the share of the k nearest of other groups that disagree."""
    unit = normalize(StandardScaler().fit_transform(np.concatenate(data.blocks, axis=1)))
    near = NearestNeighbors(n_neighbors=min(3 * k, len(given) - 1)).fit(unit).kneighbors(return_distance=False)
    foreign = data.groups[near] != data.groups[:, None]
    votes = foreign & (foreign.cumsum(axis=1) <= k)
    return (votes & (given[near] != given[:, None])).sum(axis=1) / np.maximum(votes.sum(axis=1), 1)


def suspicions(data, given):
    """Method → ((N,) suspicion, (N,) default cut, expected errors), and the seconds that ours took."""
    n_classes, rows = data.truth.max() + 1, np.arange(len(given))
    head = tuned_head_probs(data, given)
    options = {"classes": range(n_classes), "groups": data.groups}
    start = time.perf_counter()
    probs = labels.out_of_sample_probs(given, data.blocks, **options)
    ours = labels.find_label_issues(given, probs, **options)
    seconds = time.perf_counter() - start
    expected = (1 - ours["p_given"]).sum()
    found = {"ours": (ours["score"].to_numpy(), ours["is_issue"].to_numpy(), expected)}
    joint = labels.noise_matrix(given, probs, classes=range(n_classes)).to_numpy()
    found["ours"] += (joint.sum() - np.trace(joint),)
    for source, p in (("head", head), ("our mixture", probs)):
        cut = cleanlab_filter(given, p, filter_by="prune_by_noise_rate", n_jobs=1)
        for method in CLEANLAB:
            quality = get_label_quality_scores(given, p, method=method)
            found[f"cleanlab {method}, {source}"] = (-quality, cut, (1 - p[rows, given]).sum())
    asked_again = get_active_learning_scores(given[:, None], probs, probs)[0]
    found["ActiveLab, our mixture"] = (-asked_again, np.zeros(len(given), bool), np.nan)
    against = neighbours_against(data, given)
    found["SimiFeat's vote (re-implemented)"] = (against, against > 0.5, against.sum())
    return found, seconds


def looks_to_most(wrong, suspicion, share=0.8):
    """Pictures looked at until this share of the errors is found, over the number of errors."""
    hits = wrong[np.argsort(-suspicion, kind="stable")].cumsum()
    return (np.searchsorted(hits, share * wrong.sum()) + 1) / wrong.sum()


def label_next(name, data, seed):
    """Accuracy on held-out rows before and after a fifth of the rows gets a label, in several orders of asking.

    A tenth has labels, 5 % of them wrong; two fifths are held out. ActiveLab's score of an unlabelled row rises with
    its greatest probability alone, so its order is that of the least sure.
    """
    rng, n, k = np.random.default_rng(seed), len(data.truth), data.truth.max() + 1
    place = pd.Series(rng.random(n)).groupby(data.groups).transform("first").to_numpy()  # groups stay together
    is_test, has_label = place > 0.6, place < 0.1
    given = np.where(rng.random(n) < 0.05, rng.integers(k, size=n), data.truth).astype(object)
    given[~has_label] = ""
    probs = labels.out_of_sample_probs(given, data.blocks, classes=range(k), groups=data.groups)
    ordered, features = np.sort(probs, axis=1), np.concatenate(data.blocks, axis=1)
    orders = {
        "least sure": -ordered[:, -1],
        "least margin": ordered[:, -2] - ordered[:, -1],
        "at random": rng.random(n),
    }
    orders |= {"before": None, "surest": ordered[:, -1]}
    row = {"set": name, "seed": seed}
    for order, first in orders.items():
        told = given.copy()
        if first is not None:
            asked = np.argsort(-np.where(has_label | is_test, -np.inf, first))[: n // 5]
            told[asked] = data.truth[asked]
        head = labels.fit_head(features[~is_test], told[~is_test], classes=range(k), groups=data.groups[~is_test])
        row[order] = (head.predict_proba(features[is_test]).argmax(axis=1) == data.truth[is_test]).mean()
    return row


def measure(name, data, cases):
    """One row a case and method."""
    rows = []
    for kind, seed, given in cases:
        wrong = given != data.truth
        found, seconds = suspicions(data, given)
        shuffle = np.random.default_rng(seed).permutation(len(wrong))  # ties must not follow the file order
        for method, (suspicion, cut, expected, *joint) in found.items():
            suspicion = np.nan_to_num(suspicion, nan=-9)
            scores = {
                "AP": average_precision_score(wrong[shuffle], suspicion[shuffle]),
                "F1": f1_score(wrong, cut) if cut.any() else np.nan,
                "looks / error": looks_to_most(wrong[shuffle], suspicion[shuffle]),
                "expected / true": expected / wrong.sum(),
                "joint / true": joint[0] / wrong.sum() if joint else np.nan,
            }
            rows.append({"set": name, "kind": kind, "seed": seed, "method": method, "s": seconds} | scores)
    return pd.DataFrame(rows)


def report(runs):
    """Means over the planted runs, the share of runs that ours wins, breakdowns, the demo's own errors."""
    pd.set_option("display.width", 200, "display.max_columns", 20)
    filed, planted = runs[runs["kind"] == "as filed"], runs[runs["kind"] != "as filed"]
    if len(filed):
        shown = filed.set_index(["set", "method"])[["AP", "F1", "expected / true"]]
        print("\nThe demo as it is filed\n", shown.round(3).to_string(), sep="")
    if planted.empty:
        return
    ours = planted[planted["method"] == "ours"]
    table = planted.groupby("method")[["AP", "F1", "looks / error", "expected / true"]].mean()
    wide = planted.pivot_table(index=["set", "kind", "seed"], columns="method", values="AP")
    table["ours wins"] = [(wide["ours"] > wide[m]).mean() if m != "ours" else np.nan for m in table.index]
    print(f"\n{len(wide)} runs, {ours['s'].mean():.1f} s each for ours\n")
    print(table.sort_values("AP", ascending=False).round(3).to_string())
    for key in ("set", "kind"):
        peers = planted.pivot_table(index=key, columns="method", values="AP")
        best = peers.drop(columns="ours")
        shown = ours.groupby(key)[["AP", "F1", "looks / error", "expected / true", "joint / true"]].mean()
        shown["best peer"], shown["AP of it"] = best.idxmax(axis=1), best.max(axis=1)
        print("\nOurs, and the best peer of each row\n", shown.round(3).to_string(), sep="")
    print("\nAP by set and kind\n", ours.pivot_table(index="set", columns="kind", values="AP").round(3), sep="")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--work-dir", type=Path, default=Path("build/bench"), help="demo pictures, features, runs")
    arguments = parser.parse_args()
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    results, asked = [], []
    for name in arguments.sets.split(","):
        data = data_set(name, arguments.work_dir)
        accuracy = (data.clean_probs.argmax(axis=1) == data.truth).mean()
        width = sum(block.shape[1] for block in data.blocks)
        print(f"{name}: {(len(data.truth), width)}, a logistic head on right labels {accuracy:.3f}", flush=True)
        cases = [(kind, seed, plant(data, kind, seed)) for kind in KINDS for seed in range(arguments.seeds)]
        cases = [("as filed", 0, data.filed)] if hasattr(data, "filed") else cases
        results.append(measure(name, data, cases))
        asked += [label_next(name, data, seed) for seed in range(arguments.seeds)]
    runs = pd.concat(results)
    runs.to_csv(arguments.work_dir / "label_issues.csv", index=False)
    report(runs)
    accuracies = pd.DataFrame(asked).drop(columns="seed").groupby("set").mean()
    accuracies.loc["mean"] = accuracies.mean()
    print("\nAccuracy after a fifth of the rows gets a label, by the order of asking\n", accuracies.round(3), sep="")


if __name__ == "__main__":
    main()
