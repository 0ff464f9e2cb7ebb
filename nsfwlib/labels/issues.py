"""Which labels are wrong? Ranks every row by how much likelier another class is than the given one.

Each block of features gets two members that never saw the row they judge: an out-of-fold logistic head, and
the votes of the nearest neighbours outside its near-duplicate group. A mixture weighs them by the likelihood
of the given labels. The neighbours then vote once more, not with their given labels but with what this mixture
makes of them. The margin, corrected for classes that are rarely sure of themselves, ranks; the confident
joint cuts. Near-duplicates under different labels testify against one another.
"""

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nsfwlib.labels.current import current_labels
from nsfwlib.labels.heads import (
    EPS,
    FOLDS,
    UNLABELLED,
    check_probs,
    encode,
    group_codes,
    group_folds,
    normalised,
    out_of_fold_probs,
    principal_features,
    valid_rows,
)
from nsfwlib.labels.journal import decisions_in_force
from nsfwlib.labels.neighbours import find_neighbours, vote

TINY_CLASS = 10  # below so many rows no ranking can be believed
WITNESS = 0.25  # weight of a divided group's other labels: near-duplicates are no independent witnesses
Features = np.ndarray | Sequence[np.ndarray] | Mapping[str, np.ndarray]


def find_label_issues(
    labels: Any,
    pred_probs: np.ndarray | None = None,
    features: Features | None = None,
    *,
    classes: Sequence[Hashable] | None = None,
    groups: Any = None,
    trusted: Any = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Rank the rows by how suspect their given label is.

    Args:
        labels: N given labels; "" or a missing value means unlabelled. A Series' index is kept.
        pred_probs: (N, K) **out-of-sample** probabilities, columns in the order of `classes`.
        features: one (N, D) array or several (a list or a dict of them), not fine-tuned on these labels.
            With `pred_probs` as well, every member votes.
        classes: the K class names in order; by default the sorted given labels.
        groups: N near-duplicate group ids; members never judge one another. Missing: a group of its own.
        trusted: N booleans, rows that a person confirmed: they train the members and are never flagged.
        seed: of the folds, the sampling and the order of ties.

    Returns:
        One row a label, in input order: `given`, `suggested` (the likeliest other class; for an unlabelled
        row the likeliest, for one that cannot be judged its own), `score` (p_suggested - p_given, -1 … 1,
        higher = more suspect; NaN for unlabelled rows and rows that cannot be judged), `p_given` and
        `p_suggested` (of the true class, after the corrections for classes and groups), `is_issue` (the default
        cut), `note` (empty, or why the row is special).

    Raises:
        ValueError: lengths differ, a label is not in `classes`, or neither probabilities nor features came.
    """
    codes, classes = encode(labels, classes)
    trusted, groups = _flags(trusted, len(codes)), group_codes(groups, len(codes))
    if pred_probs is None and features is None:
        raise ValueError("Expected pred_probs or features. Received neither: pass one of them.")
    probs = None if pred_probs is None else _distributions(pred_probs, len(codes), len(classes))
    if features is not None:
        others = [] if probs is None else [probs]
        probs = _estimate(codes, others, features, len(classes), groups, trusted, seed)
    table = _judge(codes, probs, groups, trusted, seed)
    names = np.array([*classes, ""], object)
    table.insert(0, "given", names[codes])
    table["suggested"] = names[table["suggested"]]
    table.index = labels.index if hasattr(labels, "index") and not callable(labels.index) else table.index
    return table


def out_of_sample_probs(
    labels: Any,
    features: Features,
    *,
    classes: Sequence[Hashable] | None = None,
    groups: Any = None,
    trusted: Any = None,
    seed: int = 0,
) -> np.ndarray:
    """Class probabilities of each row from members that never saw its label: (N, K), rows sum to 1.

    Arguments as in `find_label_issues`, which ranks these just as it ranks the features they come from.
    Rows without one valid block of features are NaN. In the neighbours' second vote a row's own label has no
    vote; what is left of it is its share in the heads that helped to judge its neighbours.
    """
    codes, classes = encode(labels, classes)
    groups, trusted = group_codes(groups, len(codes)), _flags(trusted, len(codes))
    return _estimate(codes, [], features, len(classes), groups, trusted, seed)


def noise_matrix(labels: Any, pred_probs: np.ndarray, *, classes: Sequence[Hashable] | None = None) -> pd.DataFrame:
    """Confident joint: how many rows of each given label (rows) truly belong to each class (columns).

    Counts after Northcutt et al. 2021 (Confident Learning), scaled so that a row sums to its class size;
    unlabelled rows and rows whose probabilities are not valid are not counted.
    """
    codes, classes = encode(labels, classes)
    probs = _distributions(pred_probs, len(codes), len(classes))
    joint = _confident_joint(codes, probs)
    names = pd.Index(classes)
    return pd.DataFrame(joint, names.rename("given"), names.rename("estimated"))


def _flags(flags: Any, n: int) -> np.ndarray:
    flags = np.zeros(n, bool) if flags is None else np.asarray(flags, bool)
    if flags.shape != (n,):
        raise ValueError(f"Expected trusted to hold {n} booleans. Received shape {flags.shape}.")
    return flags


def _distributions(pred_probs: np.ndarray, n: int, k: int) -> np.ndarray:
    """Copy of pred_probs whose rows sum to 1; rows that are no distribution become NaN."""
    probs = check_probs(pred_probs, n, k, gaps=True)
    fine = np.isfinite(probs).all(axis=1) & (probs >= 0).all(axis=1) & (probs.sum(axis=1) > 0)
    return normalised(np.where(fine[:, None], probs, np.nan))


def _estimate(
    codes: np.ndarray,
    members: list[np.ndarray],
    features: Features,
    n_classes: int,
    groups: np.ndarray,
    trusted: np.ndarray,
    seed: int,
) -> np.ndarray:
    """Mixture of all members and of the neighbours' second vote: (N, K), NaN where nobody can judge."""
    heads, neighbourhoods = list(members), []
    for name, block in _blocks(features):
        if np.ndim(block) != 2 or len(block) != len(codes):
            raise ValueError(
                f"Expected features {name} of shape ({len(codes)}, D), a row a label. Received shape {np.shape(block)}."
            )
        valid = valid_rows(block)
        x = principal_features(block, valid, seed)
        heads.append(out_of_fold_probs(x, codes, valid, n_classes, groups, seed)[0])
        x = principal_features(block, valid, seed, standardise=False)
        neighbourhoods.append(find_neighbours(x, codes, valid, groups))
    given = np.eye(n_classes + 1, dtype=np.float32)[codes, :n_classes]
    votes = [vote(near, given) for near in neighbourhoods]
    weights = _weights([*heads, *votes], codes)
    first = _mix([*heads, *votes], weights)
    second = np.full_like(first, np.nan)
    fold = group_folds(np.where(np.isfinite(first[:, 0]), codes, UNLABELLED), groups, seed)
    for k in range(FOLDS):
        # What the neighbours of fold k believe must not rest on the votes of fold k.
        votes = [vote(near, given, fold != k) for near in neighbourhoods]
        beliefs = _beliefs(codes, _mix([*heads, *votes], weights), first, trusted)
        rows = np.flatnonzero(fold == k)
        votes = [vote(near, beliefs, rows=rows) for near in neighbourhoods]
        second[rows] = _mix(votes, np.full(len(votes), 1 / len(votes)))
    return np.where(np.isfinite(second), (first + second) / 2, first)


def _beliefs(codes: np.ndarray, probs: np.ndarray, first: np.ndarray, trusted: np.ndarray) -> np.ndarray:
    """P(true class | features, given label) by Bayes' rule: P(true | features) · P(given | true)."""
    noise = _noise(_confident_joint(codes, first))
    beliefs = _balanced(probs, _class_scale(codes, first)) * noise[codes]
    beliefs /= np.maximum(beliefs.sum(axis=1, keepdims=True), EPS)
    sure = trusted & (codes != UNLABELLED)
    beliefs[sure] = np.eye(probs.shape[1])[codes[sure]]
    return np.nan_to_num(beliefs.astype(np.float32))


def _blocks(features: Features) -> list[tuple[str, np.ndarray]]:
    if isinstance(features, Mapping):
        return [(str(name), np.asarray(block)) for name, block in features.items()]
    if isinstance(features, (list, tuple)) and len(features) and np.ndim(features[0]) == 2:
        return [(str(i), np.asarray(block)) for i, block in enumerate(features)]
    return [("", np.asarray(features))]


def _weights(members: list[np.ndarray], codes: np.ndarray) -> np.ndarray:
    """Mixture weights that best explain the given labels (EM; every member is out of sample)."""
    known = np.logical_and.reduce([np.isfinite(member[:, 0]) for member in members])
    rows = np.flatnonzero(known & (codes != UNLABELLED))
    weights = np.full(len(members), 1 / len(members))
    likelihood = np.stack([member[rows, codes[rows]] for member in members])
    for _ in range(100 if len(rows) else 0):
        share = likelihood * weights[:, None]
        weights = (share / share.sum(axis=0)).mean(axis=1)
    return np.maximum(weights, EPS)


def _mix(members: list[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """Weighted mean (N, K). A row that some members cannot judge is left to the others; with none it is NaN."""
    mixed, total = np.zeros_like(members[0]), np.zeros(len(members[0]))
    for member, weight in zip(members, weights, strict=True):
        known = np.isfinite(member[:, 0])
        mixed[known] += weight * member[known]
        total[known] += weight
    total[total == 0] = np.nan
    return mixed / total[:, None]


def _class_scale(codes: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Mean self-confidence (K,) of each class; that of a tiny class is drawn towards the mean of all."""
    rows = np.flatnonzero((codes != UNLABELLED) & np.isfinite(probs[:, 0]))
    own = probs[rows, codes[rows]]
    sums = np.bincount(codes[rows], own, minlength=probs.shape[1])
    sizes = np.bincount(codes[rows], minlength=probs.shape[1])
    return (sums + TINY_CLASS * (own.mean() if len(own) else 1.0)) / (sizes + TINY_CLASS)


def _balanced(probs: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Probabilities over the class scale: a class that is often mislabelled, hence unsure, is not put last."""
    balanced = probs / scale
    return balanced / balanced.sum(axis=1, keepdims=True)


def _confident_joint(codes: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Counts (K, K) of given against estimated class over the rows that can be judged; rows sum to class sizes.

    Northcutt et al. 2021, Confident Learning, equations 1 and 2.
    """
    n_classes = probs.shape[1]
    rows = np.flatnonzero((codes != UNLABELLED) & np.isfinite(probs[:, 0]))
    y, p = codes[rows], probs[rows]
    above = p >= _class_scale(codes, probs) - EPS
    confident = above.any(axis=1)
    joint = np.zeros((n_classes, n_classes))
    np.add.at(joint, (y[confident], np.where(above, p, -1).argmax(axis=1)[confident]), 1)
    np.fill_diagonal(joint, np.maximum(joint.diagonal(), 1))
    return joint / joint.sum(axis=1, keepdims=True) * np.bincount(y, minlength=n_classes)[:, None]


def _noise(joint: np.ndarray) -> np.ndarray:
    """P(given | true), (K, K) indexed [given, true], from the confident joint."""
    return joint / np.maximum(joint.sum(axis=0), EPS)


def _heed_groups(codes: np.ndarray, probs: np.ndarray, joint: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Where near-duplicates are filed under several classes, what the others are filed under counts as a witness.

    Near-duplicates that all agree say nothing: a wrong label is often copied along with its picture.
    """
    given = np.eye(probs.shape[1] + 1)[codes, :-1]
    filed = np.stack([np.bincount(groups, column) for column in given.T], axis=1)
    divided = ((filed > 0).sum(axis=1) > 1)[groups]
    others = filed[groups[divided]] - given[divided]
    others /= np.maximum(others.sum(axis=1, keepdims=True), 1)
    witness = np.exp(WITNESS * others @ np.log(np.maximum(_noise(joint), 0.01)))
    heeded = probs.copy()
    heeded[divided] = probs[divided] * witness
    heeded[divided] /= heeded[divided].sum(axis=1, keepdims=True)
    return heeded


def _judge(codes: np.ndarray, probs: np.ndarray, groups: np.ndarray, trusted: np.ndarray, seed: int) -> pd.DataFrame:
    """Suggestion, score, cut and note of each row, classes as codes."""
    rows, labelled = np.arange(len(codes)), codes != UNLABELLED
    judged = np.isfinite(probs[:, 0])
    joint = _confident_joint(codes, probs)
    p = _heed_groups(codes, _balanced(probs, _class_scale(codes, probs)), joint, groups)
    p[~judged] = 0
    others = p.copy()
    others[rows[labelled], codes[labelled]] = -1
    alone = probs.shape[1] == 1
    suggested = np.where(judged, others.argmax(axis=1), codes)
    p_given = np.where(labelled & judged, p[rows, codes], np.nan)
    p_suggested = np.where(judged, np.maximum(others.max(axis=1, initial=-1), 0), np.nan)
    # Equal margins come in a seeded order, not in that of the folders.
    tie = np.random.default_rng(seed).random(len(codes)) * 1e-9
    score = p_suggested - p_given + tie
    flagged = _worst_of_each_pair(codes, p, joint, tie, labelled & judged & ~trusted) & (score > 0)
    size = np.bincount(codes[labelled], minlength=probs.shape[1])
    reasons = [~judged, ~labelled, trusted, np.full(len(codes), alone), size[codes] < TINY_CLASS]
    notes = ["no valid features or probabilities", "no label", "confirmed", "only one class"]
    note = np.select(reasons, [*notes, "tiny class: look at all"], "")
    return pd.DataFrame(
        {
            "suggested": suggested,
            "score": score,
            "p_given": p_given,
            "p_suggested": p_suggested,
            "is_issue": flagged,
            "note": note,
        }
    )


def _worst_of_each_pair(
    codes: np.ndarray, probs: np.ndarray, joint: np.ndarray, tie: np.ndarray, eligible: np.ndarray
) -> np.ndarray:
    """Prune by noise rate: of each (given, true) pair the joint's number of rows, largest margin first."""
    flagged = np.zeros(len(codes), bool)
    for given, other in zip(*np.nonzero(np.round(joint)), strict=True):
        if given != other:
            rows = np.flatnonzero(eligible & (codes == given))
            margin = probs[rows, other] - probs[rows, given] + tie[rows]
            flagged[rows[np.argsort(-margin)[: round(joint[given, other])]]] = True
    return flagged


def judge_labels(
    table: pd.DataFrame, features: Mapping[str, np.ndarray], journal: Path, *, class_names: Sequence[str], seed: int = 0
) -> tuple[pd.DataFrame, np.ndarray]:
    """Suspect labels of the images table as it stands: decisions applied, confirmed rows trusted.

    Labels of `test` judge nothing, corrected or not: its rows are judged by the others, as an audit needs it.

    Args:
        table: the images table with `path`, `sha256`, `given_label`, `split`, `group`; usable rows.
        features: block → (N, D) features of a network never trained on these labels.
        journal: the decisions journal; a missing file is an empty one.
        class_names: the K classes in order.
        seed: of folds and ties.

    Returns:
        The label issues beside `path`, `sha256`, `split`, `group`, in the order of `table`, most columns as from
        `labels.find_label_issues`; and out-of-sample probabilities (N, K).
    """
    current = current_labels(table, journal)
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
