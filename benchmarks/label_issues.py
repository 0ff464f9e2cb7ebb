"""Which ranking finds most wrong labels? Ours against cleanlab's, self-confidence and the rule of 2019.

    python benchmarks/label_issues.py [--sets digits,clusters,bottleneck,demo] [--seeds 5] [--work-dir build/bench]

Four data sets whose labels are right × three kinds of planted noise × five rates × seeds; folds by near-duplicate
group for every method but the rule of 2019, which has none. cleanlab is given two sets of probabilities: those of
the logistic head with its strength tuned, as a careful user would, and our own mixture. Prints tables, asserts
nothing. The demo needs the published weights (25 MB, fetched once) and a minute for its features; leave it out
with --sets. All of it takes about half an hour of one core.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
from cleanlab.filter import find_label_issues as cleanlab_filter
from cleanlab.rank import get_label_quality_scores
from sklearn.datasets import load_digits, make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nsfwlib import demo, labels

RATES = (0.02, 0.05, 0.1, 0.2, 0.3)
KINDS = ("uniform", "pair", "ambiguous")
BLOCKS = {"mixed4": 768, "mixed6": 768, "mixed10": 2048}
# cleanlab's three scores and its default filter; lower is more suspect there.
CLEANLAB = ("self_confidence", "normalized_margin", "confidence_weighted_entropy", "prune_by_noise_rate")
# Not comparable run by run (other data): human noise on CIFAR-10N-aggregate, self-confidence ranking.
PUBLISHED = {"ResNet-18": (0.977, 0.875), "Swin": (0.996, 0.977)}


def digits():
    features, truth = load_digits(return_X_y=True)
    return SimpleNamespace(blocks=[features], truth=truth, groups=np.arange(len(truth)))


def clusters():
    """Five classes of unequal size, two clusters each; most of the 128 features are redundant or noise."""
    features, truth = make_classification(
        2000,
        128,
        n_informative=24,
        n_redundant=40,
        n_classes=5,
        n_clusters_per_class=2,
        class_sep=2.2,
        weights=[0.35, 0.25, 0.2, 0.12, 0.08],
        flip_y=0,
        random_state=0,
    )
    return SimpleNamespace(blocks=[features], truth=truth, groups=np.arange(len(truth)))


def bottleneck():
    """Like pooled features of a network: rectified mixtures of overlapping modes, a fifth near-duplicates."""
    rng = np.random.default_rng(0)
    n, n_classes, modes, width = 2000, 5, 6, 16
    centres = rng.normal(size=(n_classes, 1, width)) * 0.6 + rng.normal(size=(n_classes, modes, width)) * 0.9
    truth, groups = rng.integers(n_classes, size=n), np.arange(n)
    latent = centres[truth, rng.integers(modes, size=n)] + rng.normal(size=(n, width)) * 0.9
    for i in np.flatnonzero(rng.random(n) < 0.2)[1:]:
        j = rng.integers(i)
        latent[i], truth[i], groups[i] = latent[j] + rng.normal(size=width) * 0.08, truth[j], groups[j]
    rectified = np.maximum(latent @ rng.normal(size=(width, 512)) / 4 + rng.normal(size=(n, 512)) * 0.6 - 0.5, 0)
    return SimpleNamespace(blocks=[rectified * np.exp(rng.normal(size=512) * 0.5)], truth=truth, groups=groups)


def demo_features(work_dir):
    """Three blocks of the published network on the stand-in pictures, and the labels these are filed under."""
    cached = work_dir / "demo_features.npz"
    data_dir = work_dir / "demo"
    table = demo.make_demo(data_dir, images_per_class=150, seed=0)
    table = table[table["true_label"] != ""].reset_index(drop=True)
    if not cached.exists():
        from nsfwlib import data, model

        images = table[["path"]].merge(data.scan(data_dir, progress=False), on="path", how="left")
        features = model.bottleneck_features(
            model.published_model(), images, data_dir, cache_dir=work_dir, blocks=tuple(BLOCKS), progress=False
        )
        np.savez(cached, paths=table["path"].to_numpy(str), features=features)
    stored = np.load(cached)
    keep = np.isfinite(stored["features"]).all(axis=1)
    if list(stored["paths"]) != list(table["path"]):
        raise RuntimeError(f"{cached} belongs to another demo. Remove {work_dir} and run again.")
    table, features = table[keep], stored["features"][keep].astype(np.float32)
    return SimpleNamespace(
        blocks=np.split(features, np.cumsum(list(BLOCKS.values()))[:-1], axis=1),
        truth=table["true_label"].map(list(demo.CLASSES).index).to_numpy(),
        groups=pd.factorize(table["group"])[0],
        filed=table["given_label"].map(list(demo.CLASSES).index).to_numpy(),
    )


def plant(data_dir, kind, rate, seed):
    """Given labels (N,) with `rate` of them wrong: anywhere, mostly in every other class, or where it is hard."""
    rng = np.random.default_rng([seed, int(1000 * rate)])
    truth, given, n_classes = data_dir.truth, data_dir.truth.copy(), data_dir.truth.max() + 1
    rows = np.arange(len(truth))
    rivals = data_dir.clean_probs.copy()
    rivals[rows, truth] = 0
    chance = {
        "uniform": np.ones(len(truth)),
        "pair": np.where(truth % 2 == 0, 1.6, 0.4),
        "ambiguous": rivals.max(axis=1) + 0.002,
    }[kind]
    wrong = rng.choice(rows, round(rate * len(truth)), replace=False, p=chance / chance.sum())
    given[wrong] = {
        "uniform": (truth[wrong] + rng.integers(1, n_classes, len(wrong))) % n_classes,
        "pair": (truth[wrong] + 1) % n_classes,
        "ambiguous": rivals[wrong].argmax(axis=1),
    }[kind]
    return given


def tuned_head_probs(data_dir, given):
    """The head alone, over all blocks side by side: out of fold by group, its strength by log-loss."""
    features = np.concatenate(data_dir.blocks, axis=1)
    valid = np.ones(len(given), bool)
    x = labels.principal_features(features, valid, 0)
    groups = np.unique(data_dir.groups, return_inverse=True)[1]
    return labels.out_of_fold_probs(x, given, valid, data_dir.truth.max() + 1, groups, 0)[0]


def cleanlab_suspicion(given, probs, method):
    """Higher is more suspect. The filter puts what it flags first, by normalised margin."""
    if method != "prune_by_noise_rate":
        return -get_label_quality_scores(given, probs, method=method)
    flagged = cleanlab_filter(given, probs, filter_by=method, n_jobs=1)
    return flagged * 2 - get_label_quality_scores(given, probs, method="normalized_margin")


def original_rule(data_dir, given):
    """The 2019 script: the model that trained on the labels judges them, one ordered pair of classes a run."""
    features = np.concatenate(data_dir.blocks, axis=1)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200, tol=1e-3))
    probs = classifier.fit(features, given).predict_proba(features)
    predicted, n_classes = probs.argmax(axis=1), probs.shape[1]
    pairs = np.bincount(given * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)
    np.fill_diagonal(pairs, 0)
    a, b = np.unravel_index(pairs.argmax(), pairs.shape)
    return np.where((given == a) & (predicted == b), probs.max(axis=1), 0)


def suspicions(data_dir, given):
    """Method → (N,) suspicion, and the seconds that ours took."""
    head = tuned_head_probs(data_dir, given)
    start = time.perf_counter()
    classes = range(data_dir.truth.max() + 1)
    probs = labels.out_of_sample_probs(given, data_dir.blocks, classes=classes, groups=data_dir.groups)
    found = {
        "ours": labels.find_label_issues(given, probs, classes=classes, groups=data_dir.groups)["score"].to_numpy()
    }
    seconds = time.perf_counter() - start
    for source, p in (("head", head), ("our mixture", probs)):
        found |= {f"cleanlab {m}, {source}": cleanlab_suspicion(given, p, m) for m in CLEANLAB}
    default = LogisticRegression(max_iter=200, tol=1e-3)
    features = StandardScaler().fit_transform(np.concatenate(data_dir.blocks, axis=1))
    by_group = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    plain = cross_val_predict(default, features, given, groups=data_dir.groups, cv=by_group, method="predict_proba")
    found["self-confidence, untuned head"] = -plain[np.arange(len(given)), given]
    found["the rule of 2019"] = original_rule(data_dir, given)
    return found, seconds


def recall(suspicion, wrong, budget):
    first = np.argsort(-suspicion, kind="stable")[: round(budget * wrong.sum())]
    return wrong[first].sum() / wrong.sum()


def measure(name, data_dir, cases):
    """One row a case and method."""
    rows = []
    for kind, rate, seed, given in cases:
        wrong = given != data_dir.truth
        found, seconds = suspicions(data_dir, given)
        shuffle = np.random.default_rng(seed).permutation(len(wrong))  # ties must not follow the file order
        for method, suspicion in found.items():
            s, w = np.nan_to_num(suspicion[shuffle], nan=-9), wrong[shuffle]
            scores = {"AP": average_precision_score(w, s), "recall 1x": recall(s, w, 1), "recall 2x": recall(s, w, 2)}
            rows.append(
                {"set": name, "kind": kind, "rate": rate, "seed": seed, "method": method, "s": seconds} | scores
            )
    return pd.DataFrame(rows)


def report(runs):
    """Means over the planted runs, the paired share of runs that ours wins, breakdowns, the demo's own errors."""
    pd.set_option("display.width", 200, "display.max_columns", 20)
    planted = runs[runs["kind"] != "as filed"]
    scores = ["AP", "recall 1x", "recall 2x"]
    table = planted.groupby("method")[scores].mean()
    keys = ["set", "kind", "rate", "seed"]
    wide = planted.pivot_table(index=keys, columns="method", values="AP")
    table["ours wins"] = [(wide["ours"] > wide[m]).mean() if m != "ours" else np.nan for m in table.index]
    print(f"\n{len(wide)} runs, {planted['s'].mean():.1f} s each for ours\n")
    print(table.sort_values("AP", ascending=False).round(3).to_string())
    shown = ["ours", *table[table.index.str.endswith("head")]["AP"].sort_values(ascending=False).index[:2]]
    shown += ["cleanlab normalized_margin, our mixture", "the rule of 2019"]
    for key in ("set", "kind", "rate"):
        print(f"\nAP by {key}\n", planted.pivot_table(index=key, columns="method", values="AP")[shown].round(3), sep="")
    filed = runs[runs["kind"] == "as filed"]
    if len(filed):
        print("\nThe demo as it is filed (one run)\n", filed.set_index("method")[scores].round(3), sep="")
    print("\nFor orientation, published for CIFAR-10N-aggregate (9 % human noise), self-confidence ranking:")
    print("; ".join(f"{name}: AUROC {auroc}, AP {ap}" for name, (auroc, ap) in PUBLISHED.items()))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="digits,clusters,bottleneck,demo")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--work-dir", type=Path, default=Path("build/bench"), help="demo pictures, features, runs")
    arguments = parser.parse_args()
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    results = []
    for name in arguments.sets.split(","):
        data_dir = {"digits": digits, "clusters": clusters, "bottleneck": bottleneck}.get(
            name, lambda: demo_features(arguments.work_dir)
        )()
        features = np.concatenate(data_dir.blocks, axis=1)
        judge = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300, tol=1e-3))
        data_dir.clean_probs = cross_val_predict(judge, features, data_dir.truth, method="predict_proba")
        accuracy = (data_dir.clean_probs.argmax(axis=1) == data_dir.truth).mean()
        print(f"{name}: {features.shape}, accuracy of a logistic head on right labels {accuracy:.3f}", flush=True)
        seeds = range(arguments.seeds)
        cases = [(k, r, seed, plant(data_dir, k, r, seed)) for k in KINDS for r in RATES for seed in seeds]
        cases += [("as filed", 0.0, 0, data_dir.filed)] if hasattr(data_dir, "filed") else []
        results.append(measure(name, data_dir, cases))
        results[-1].to_csv(arguments.work_dir / f"label_issues_{name}.csv", index=False)
    report(pd.concat(results))


if __name__ == "__main__":
    main()
