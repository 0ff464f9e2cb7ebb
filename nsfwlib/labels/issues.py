"""Which labels are wrong? Ranks every row by how much likelier another class is than the given one.

Each block of features gets members that never saw the row they judge: one takes each class for a cloud, out of fold, a
logistic head may bend, and the nearest neighbours outside its near-duplicate group vote, twenty and fifty. A mixture
weighs them, Bayes' rule turns it and the given label into the score; the confident joint and what the mixture
contradicts cut. As a whole sub-kind of pictures under another class vouches for itself, clouds and neighbours
without it judge each cluster of a class, too. It stays what is seen worst (AP .68 on the benchmark, F1 of the cut .59).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nsfwlib.labels import heads, noise
from nsfwlib.labels.current import current_labels
from nsfwlib.labels.journal import decisions_in_force
from nsfwlib.labels.neighbours import neighbour_votes
from nsfwlib.labels.rows import EPS, UNLABELLED, Classes, encode, group_codes

VOTERS = 5_000  # of many rows, on whole sub-kinds: few enough to be compared exactly
CONFIRMED = 3.0  # rows that one with a confirmed label counts for where others are judged
LEAST_CUT = 0.5  # of the labels that the judges contradict: the joint overlooks misfiled sub-kinds
SHUFFLES = 20  # of the labels, to learn what chance alone would explain
Features = np.ndarray | Sequence[np.ndarray] | Mapping[str, np.ndarray]


def find_label_issues(
    labels: Any,
    pred_probs: np.ndarray | None = None,
    features: Features | None = None,
    *,
    classes: Classes = None,
    groups: Any = None,
    trusted: Any = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Rank the rows by how suspect their given label is.

    Args:
        labels: N given labels; "" or a missing value means unlabelled. A Series' index is kept.
        pred_probs: (N, K) **out-of-sample** probabilities, columns in the order of `classes`.
        features: one (N, D) array or several (a list or a dict), not fine-tuned on these labels; log `pred_probs` join.
        classes: the K class names in order; by default the sorted given labels.
        groups: N near-duplicate group ids; members never judge one another. Missing: a group of its own.
        trusted: N booleans, rows that a person confirmed: they train the members and are never flagged.
        seed: of the folds, the sampling and the order of ties.

    Returns:
        One row a label, in input order: `given`, `suggested` (the likeliest other class; for an unlabelled row the
        likeliest, for one that cannot be judged its own), `score` (-1 … 1, higher = more suspect; NaN where there is no
        label or no judge), `p_given` and `p_suggested` (how likely each is right), `is_issue` (as many as the confident
        joint counts, at least LEAST_CUT of those that the probabilities contradict), `note` (or why it is special).

    Raises:
        ValueError: lengths differ, a label is not in `classes`, `trusted` is not boolean, features are no numbers or
            too large, or neither probabilities nor features came.
    """
    codes, classes = encode(labels, classes)
    if pred_probs is None and features is None:
        raise ValueError("Expected pred_probs or features. Received neither: pass one of them.")
    probs = None if pred_probs is None else noise.distributions(pred_probs, len(codes), len(classes))
    if features is not None:
        blocks = _blocks(features) | ({} if probs is None else {"pred_probs": np.log(probs)})
        probs = out_of_sample_probs(labels, blocks, classes=classes, groups=groups, trusted=trusted, seed=seed)
    table = _judge(codes, probs, classes, group_codes(groups, len(codes)), _flags(trusted, len(codes)), seed)
    return table.set_axis(labels.index) if isinstance(labels, pd.Series) else table


def out_of_sample_probs(
    labels: Any, features: Features, *, classes: Classes = None, groups: Any = None, trusted: Any = None, seed: int = 0
) -> np.ndarray:
    """Class probabilities of each row from members that never saw its label: (N, K), rows sum to 1.

    Arguments as in `find_label_issues`, which ranks these as it ranks the features they come from; a `trusted` row
    counts for CONFIRMED. NaN are rows without a valid block, and those of a class that is one near-duplicate group.
    """
    codes, classes = encode(labels, classes)
    groups, trusted, k = group_codes(groups, len(codes)), _flags(trusted, len(codes)), len(classes)
    counts = np.where(trusted, CONFIRMED, 1.0)
    given = (np.eye(k + 1)[codes, :k] * counts[:, None]).astype(np.float32)
    members, apart, leaning = [], [], []
    for name, block in _blocks(features).items():
        if block.ndim != 2 or len(block) != len(codes):
            raise ValueError(f"Expected features {name} of shape ({len(codes)}, D). Received shape {block.shape}.")
        valid = heads.valid_rows(block)
        x, judged = heads.principal_features(block, valid, seed), (codes, valid, k)
        kinds = heads.sub_kinds(x, np.where(trusted, UNLABELLED, codes), valid, groups, seed)
        cloud: dict[str, Any] = {"strengths": heads.SHRINKAGE, "weights": counts, "clouds": True}
        members.append(heads.out_of_fold_probs(x, *judged, groups, seed, **cloud)[0])
        clouds = heads.out_of_fold_probs(x, *judged, kinds, seed, **cloud)[0]
        x, bent = heads.bent_features(x, valid, seed), heads.BENT_STRENGTHS
        members.append(heads.out_of_fold_probs(x, *judged, groups, seed, strengths=bent, weights=counts)[0])
        x = heads.principal_features(block, valid, seed, standardise=False)
        members += neighbour_votes(x, given, valid, groups)
        heard = np.isin(np.arange(len(codes)), heads.sampled(np.flatnonzero(valid), VOTERS, seed))
        apart.append((clouds + np.mean(neighbour_votes(x, given * heard[:, None], valid, kinds), axis=0)) / 2)
        leaning.append(_leaning(apart[-1], kinds, codes))
    leans = np.fmin.reduce(leaning)[:, None]  # as far as all blocks agree
    mixed = (1 - leans) * _mix(members, _weights(members, codes, len(apart))) + leans * _mix(apart, np.ones(len(apart)))
    return np.where(_in_one_group(codes, groups)[:, None], np.nan, mixed)


def _flags(flags: Any, n: int) -> np.ndarray:
    flags = np.zeros(n, bool) if flags is None else pd.Series(np.asarray(flags)).infer_objects().to_numpy()
    if flags.shape != (n,) or flags.dtype != bool:
        expected = f"Expected trusted to hold {n} booleans. Received: {len(flags)} of type {flags.dtype}."
        raise ValueError(f"{expected} Compare first: as text, 'False' would count as true.")
    return flags


def _blocks(features: Features) -> dict[str, np.ndarray]:
    if not isinstance(features, Mapping):
        several = isinstance(features, (list, tuple)) and (not len(features) or np.ndim(features[0]) == 2)
        features = dict(enumerate(features)) if several else {"": features}
    if not features:
        raise ValueError("Expected at least one block of features. Received none. Fill it, or leave it out.")
    return {str(name): np.asarray(block) for name, block in features.items()}


def _leaning(probs: np.ndarray, kinds: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """How far (N,) a row's sub-kind leans to another class, 0 … 1; squared, for those rightly filed lean a little."""
    rows, means = np.arange(len(codes)), pd.DataFrame(probs).groupby(kinds).transform("mean").to_numpy()
    leans = np.where((kinds < 0) | (codes == UNLABELLED), 0, (means.max(axis=1) - means[rows, codes]) ** 2)
    return np.where(np.isfinite(probs[:, 0]), leans, np.nan)


def _weights(members: list[np.ndarray], codes: np.ndarray, n_blocks: int) -> np.ndarray:
    """Mixture weights: those that best explain the given labels (EM; all are out of sample), half evened in a block."""
    rows = np.flatnonzero(codes != UNLABELLED)
    likelihood = np.stack([member[rows, codes[rows]] for member in members])
    likelihood = likelihood[:, np.isfinite(likelihood).all(axis=0)]
    weights = np.full(len(members), 1 / len(members))
    for _ in range(100 if likelihood.size else 0):
        share = likelihood * weights[:, None]
        weights = (share / share.sum(axis=0)).mean(axis=1)
    # Alone, the member that follows a misfiled sub-kind most closely would win: .66 for .71 AP on those.
    return (weights + np.repeat(weights.reshape(n_blocks, -1).mean(axis=1), len(members) // n_blocks)) / 2


def _mix(members: list[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """Weighted mean (N, K). A row that some members cannot judge is left to the others; with none it is NaN."""
    counts = [weight * np.isfinite(member[:, :1]) for member, weight in zip(members, weights, strict=True)]
    total = sum(counts)
    mixed = sum(count * np.nan_to_num(member) for member, count in zip(members, counts, strict=True))
    return mixed / np.where(total > 0, total, np.nan)


def _judge(
    codes: np.ndarray, probs: np.ndarray, classes: list, groups: np.ndarray, trusted: np.ndarray, seed: int
) -> pd.DataFrame:
    """What `find_label_issues` returns."""
    (n, k), names = probs.shape, np.array([*classes, ""], object)
    rows, labelled, judged = np.arange(n), codes != UNLABELLED, np.isfinite(probs[:, 0])
    size, lonely = np.bincount(codes[labelled], minlength=k), _in_one_group(codes, groups)
    blind = not _says_something(codes, probs, seed)
    if blind:  # judged by how frequent the classes are, and no label is doubted
        probs = np.where(judged[:, None], noise.normalised(size[None] / max(size.sum(), 1)), np.nan)
    rates = noise.noise_rates(np.diag(size) if blind else noise.confident_joint(codes, probs))
    p = noise.corrected(codes, probs, rates, groups)
    others = noise.posterior(codes, p, rates)
    others[~judged] = 0
    own = np.where(labelled, others[rows, codes], np.nan)
    others[rows[labelled], codes[labelled]] = -1
    suggested = np.where(judged, others.argmax(axis=1), codes)
    # Equal margins come in a seeded order, not in that of the folders.
    tie = np.random.default_rng(seed).random(n) * 1e-9
    score = np.where(judged, np.maximum(others.max(axis=1, initial=-1), 0) - own + tie, np.nan)
    p = noise.calibrated(codes, p, rates, trusted, seed)
    doubtful = np.where(trusted, UNLABELLED, codes)
    eligible = noise.labelled_rows(doubtful, probs)
    joint = noise.confident_joint(doubtful, probs)
    contradicted = (probs[eligible].argmax(axis=1) != codes[eligible]).sum()
    expected = 0 if blind else round(max(joint.sum() - np.trace(joint), LEAST_CUT * contradicted))
    flagged = eligible[np.argsort(-score[eligible])[:expected]]
    reasons = {
        "its class is one near-duplicate group: nothing to compare with": ~judged & lonely,
        "no valid features or probabilities": ~judged,
        "no label": ~labelled,
        "confirmed": trusted,
        "only one class": np.full(n, k == 1),
        "tiny class: look at all": size[codes] < noise.TINY_CLASS,
        "these features say nothing of these classes": np.full(n, blind),
    }
    table = pd.DataFrame({"given": names[codes], "suggested": names[suggested], "score": score})
    table["p_given"] = np.where(labelled & judged, p[rows, codes], np.nan)
    table["p_suggested"] = np.where(judged, p[rows, suggested], np.nan)
    return table.assign(is_issue=np.isin(rows, flagged), note=np.select([*reasons.values()], [*reasons], ""))


def _in_one_group(codes: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Rows (N,) of classes that are one near-duplicate group of several rows: who judges these never saw the class."""
    filed = pd.Series(groups).groupby(codes).agg(["nunique", "size"])
    return np.isin(codes, filed.index[(filed["nunique"] == 1) & (filed["size"] > 1) & (filed.index != UNLABELLED)])


def _says_something(codes: np.ndarray, probs: np.ndarray, seed: int) -> bool:
    """Whether the probabilities fit the given labels better than they fit the same labels shuffled."""
    rows = heads.sampled(noise.labelled_rows(codes, probs), 5000, seed)
    y, rng, logs = codes[rows], np.random.default_rng(seed), np.log(np.maximum(probs[rows], EPS))
    fits = [logs[np.arange(len(y)), rng.permutation(y)].sum() for _ in range(SHUFFLES)]
    return logs[np.arange(len(y)), y].sum() > max(fits)


def judge_labels(
    table: pd.DataFrame, features: Mapping[str, np.ndarray], journal: Path, *, class_names: Sequence[str], seed: int = 0
) -> tuple[pd.DataFrame, np.ndarray]:
    """Suspect labels of the images table as it stands: decisions applied, confirmed rows trusted.

    Labels of `test` judge nothing, corrected or not: its rows are judged by the others, as an audit needs it. `table`
    has usable rows; `features`, (N, D) a block, are of a network never trained on these labels.

    Returns:
        The table of `find_label_issues` behind `path`, `sha256`, `split`, `group`, in the order of `table`; and
        out-of-sample probabilities (N, K).
    """
    current = current_labels(table, journal, new_classes=class_names)
    decided = decisions_in_force(journal)
    firm = decided.loc[decided["decision"].isin(["keep", *class_names]), "sha256"]
    options = {"classes": list(class_names), "groups": table["group"], "seed": seed}
    trusted, is_test = table["sha256"].isin(firm).to_numpy(), table["split"].eq("test").to_numpy()
    judging = current.mask(is_test)
    pred_probs = out_of_sample_probs(judging, features, trusted=trusted & ~is_test, **options)
    ranked = find_label_issues(judging, pred_probs, trusted=trusted & ~is_test, **options)
    of_test = find_label_issues(current, pred_probs, trusted=trusted, **options)
    issues = pd.concat([ranked[~is_test], of_test[is_test]]).loc[table.index]
    return pd.concat([table[["path", "sha256", "split", "group"]], issues], axis=1), pred_probs
