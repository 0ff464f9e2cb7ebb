"""Which labels are wrong? Ranks every row by how much likelier another class is than the given one.

Each block of features gets two members that never saw the row they judge: an out-of-fold logistic head and
the votes of the nearest neighbours outside the row's near-duplicate group. A mixture, weighted by the
likelihood of the given labels, turns them into `pred_probs`; the margin ranks, the confident joint cuts.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

EPS = 1e-6  # the least probability any member gives a class
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # candidates for the head's C, from strong to weak regularisation
DIMENSIONS = 256  # wider blocks are projected on this many principal components
TINY_CLASS = 10  # below so many rows no ranking can be believed
UNLABELLED = -1

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
        row the likeliest), `score` (p_suggested - p_given, -1 … 1, higher = more suspect; NaN where there is
        nothing to judge), `p_given`, `p_suggested`, `is_issue` (the default cut), `note`.

    Raises:
        ValueError: lengths differ, a label is not in `classes`, or neither probabilities nor features came.
    """
    codes, classes = _encode(labels, classes)
    trusted = _flags(trusted, len(codes))
    members = [] if pred_probs is None else [_checked_probs(pred_probs, len(codes), classes)]
    if features is not None:
        members += _members(codes, features, len(classes), _group_codes(groups, len(codes)), seed)
    if not members:
        raise ValueError("Expected pred_probs or features. Received neither: pass one of them.")
    probs = _mixture(members, codes)
    table = _judge(codes, probs, trusted, seed)
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

    Arguments as in `find_label_issues`. Rows without one valid block of features are NaN.
    """
    codes, classes = _encode(labels, classes)
    _flags(trusted, len(codes))
    return _mixture(_members(codes, features, len(classes), _group_codes(groups, len(codes)), seed), codes)


def noise_matrix(
    labels: Any, pred_probs: np.ndarray, *, classes: Sequence[Hashable] | None = None
) -> pd.DataFrame:
    """Confident joint: how many rows of each given label (rows) truly belong to each class (columns).

    Counts after Northcutt et al. 2021 (Confident Learning), scaled so that a row sums to its class size.
    """
    codes, classes = _encode(labels, classes)
    probs = _checked_probs(pred_probs, len(codes), classes)
    joint = _confident_joint(codes, probs)
    names = pd.Index(classes)
    return pd.DataFrame(joint, names.rename("given"), names.rename("estimated"))


def fit_head(
    features: np.ndarray,
    labels: Any,
    *,
    classes: Sequence[Hashable] | None = None,
    C: float | None = None,
    groups: Any = None,
    seed: int = 0,
) -> LinearHead:
    """Fit the head that judges labels on all valid rows, to compare heads before and after cleansing.

    `features` is (N, D) (concatenate blocks); unlabelled rows and rows with NaN are left out.
    With `C=None` the strength is chosen by out-of-fold log-loss, folds by `groups`.
    """
    codes, classes = _encode(labels, classes)
    values = np.asarray(features)
    valid = _valid_rows(values) & (codes != UNLABELLED)
    if C is None:
        projected = _standardised_components(values, _valid_rows(values))[0]
        C = _head_probs(projected, codes, valid, len(classes), _group_codes(groups, len(codes)), seed)[1]
    names = np.array(classes, object)
    return LinearHead(C=C, classes=classes).fit(values[valid], names[codes[valid]])


class LinearHead(ClassifierMixin, BaseEstimator):
    """Multinomial logistic regression on standardised principal components, with an explicit class order.

    `classes_` is `classes` as given, in that order; a class without rows keeps its column, at zero.
    """

    def __init__(self, C: float = 0.01, classes: Sequence[Hashable] | None = None) -> None:
        self.C = C
        self.classes = classes

    def fit(self, X: np.ndarray, y: Any) -> LinearHead:
        """Fit on (N, D) features and N labels."""
        codes, classes = _encode(y, self.classes)
        self.classes_ = np.array(classes)
        projected, self.mean_, self.components_ = _standardised_components(
            np.asarray(X), np.ones(len(X), bool)
        )
        present = np.unique(codes)
        self.only_ = present[0] if len(present) == 1 else None
        if self.only_ is None:
            self.model_ = _logistic(self.C).fit(projected, codes)
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Probabilities (N, K), columns in the order of `classes_`."""
        probs = np.zeros((len(X), len(self.classes_)))
        if self.only_ is not None:
            probs[:, self.only_] = 1
            return probs
        projected = (np.asarray(X, np.float32) - self.mean_) @ self.components_
        probs[:, self.model_.classes_] = self.model_.predict_proba(projected)
        return probs

    def predict(self, X: np.ndarray) -> np.ndarray:
        """The likeliest class of each row."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


def _encode(labels: Any, classes: Sequence[Hashable] | None) -> tuple[np.ndarray, list]:
    """Labels as codes into `classes`; unlabelled rows are UNLABELLED."""
    values = pd.Series(np.asarray(labels, object)) if not isinstance(labels, pd.Series) else labels
    values = values.astype(object).reset_index(drop=True)
    empty = values.isna() | (values == "")
    names = sorted(values[~empty].unique()) if classes is None else list(classes)
    if not names or len(set(names)) != len(names):
        raise ValueError(f"Expected at least one class, each named once. Received: {names}. Pass classes=…")
    codes = pd.Index(names).get_indexer(pd.Index(values))
    codes[empty.to_numpy()] = UNLABELLED
    unknown = values[(codes == UNLABELLED) & ~empty.to_numpy()]
    if len(unknown):
        raise ValueError(
            f"Expected labels in {names}. Received: {unknown.iloc[0]!r} (row {unknown.index[0]}, "
            f"{len(unknown)} such rows). Pass classes=… with every class, or leave the label empty."
        )
    return codes, names


def _flags(flags: Any, n: int) -> np.ndarray:
    flags = np.zeros(n, bool) if flags is None else np.asarray(flags, bool)
    if flags.shape != (n,):
        raise ValueError(f"Expected trusted to hold {n} booleans. Received shape {flags.shape}.")
    return flags


def _group_codes(groups: Any, n: int) -> np.ndarray:
    """Group ids as 0 … G-1; a row without a group is one of its own."""
    if groups is None:
        return np.arange(n)
    codes = pd.factorize(np.asarray(groups, object))[0]
    if len(codes) != n:
        raise ValueError(f"Expected {n} groups, one a label. Received: {len(codes)}.")
    alone = codes < 0
    codes[alone] = codes.max(initial=-1) + 1 + np.arange(alone.sum())
    return codes


def _checked_probs(pred_probs: np.ndarray, n: int, classes: list) -> np.ndarray:
    """Copy of pred_probs whose rows sum to 1; rows that are no distribution become NaN."""
    probs = np.array(pred_probs, float)
    if probs.shape != (n, len(classes)):
        raise ValueError(
            f"Expected pred_probs of shape {(n, len(classes))}, columns in the order {classes}. "
            f"Received shape {probs.shape}."
        )
    bad = ~np.isfinite(probs).all(axis=1) | (probs < 0).any(axis=1) | (probs.sum(axis=1) <= 0)
    probs[bad] = np.nan
    return _normalised(probs)


def _normalised(probs: np.ndarray) -> np.ndarray:
    probs = np.clip(probs, EPS, None)
    return probs / probs.sum(axis=1, keepdims=True)


def _members(
    codes: np.ndarray, features: Features, n_classes: int, groups: np.ndarray, seed: int
) -> list[np.ndarray]:
    """Two members a block of features, each (N, K) with NaN where the block has no valid row."""
    members = []
    for name, block in _blocks(features):
        values = np.asarray(block)
        if values.ndim != 2 or len(values) != len(codes):
            raise ValueError(
                f"Expected features {name} of shape ({len(codes)}, D), a row a label. "
                f"Received shape {values.shape}."
            )
        valid = _valid_rows(values)
        projected = _standardised_components(values, valid)[0]
        members.append(_head_probs(projected, codes, valid, n_classes, groups, seed)[0])
        members.append(_neighbour_probs(values, codes, valid, n_classes, groups))
    return members


def _blocks(features: Features) -> list[tuple[str, np.ndarray]]:
    if isinstance(features, Mapping):
        return list(features.items())
    if isinstance(features, (list, tuple)) and np.ndim(features[0]) == 2:
        return [(str(i), block) for i, block in enumerate(features)]
    return [("", np.asarray(features))]


def _valid_rows(values: np.ndarray) -> np.ndarray:
    return np.isfinite(values).all(axis=1)


def _standardised_components(
    values: np.ndarray, valid: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Standardise, then rotate on at most DIMENSIONS principal components: (projected, mean, components).

    A logistic head under an L2 penalty does not notice a rotation, so only the truncation changes it.
    """
    rows = values[valid].astype(np.float32)
    if not len(rows):
        raise ValueError(
            f"Expected features with at least one row of finite numbers. Received {len(values)}."
        )
    mean, scale = rows.mean(axis=0), rows.std(axis=0)
    scale[scale == 0] = 1
    components = np.diag(1 / scale)
    if values.shape[1] > DIMENSIONS:
        standard = (rows - mean) / scale
        vectors = np.linalg.eigh(standard.T @ standard)[1]
        components = vectors[:, : -DIMENSIONS - 1 : -1] / scale[:, None]
    projected = np.full((len(values), components.shape[1]), np.nan, np.float32)
    projected[valid] = (rows - mean) @ components
    return projected, mean, components


def _logistic(C: float) -> LogisticRegression:
    return LogisticRegression(C=C, max_iter=200, tol=1e-3, warm_start=True)


def _folds(codes: np.ndarray, groups: np.ndarray, seed: int) -> list[np.ndarray]:
    """The rows of each of at most five folds: stratified by label, no group in two folds."""
    n_folds = min(5, len(np.unique(groups)), max(2, np.bincount(codes + 1).max()))
    if n_folds < 2:
        return []
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    return [test for _, test in splitter.split(codes, codes, groups)]


def _head_probs(
    projected: np.ndarray, codes: np.ndarray, valid: np.ndarray, n_classes: int, groups: np.ndarray, seed: int
) -> tuple[np.ndarray, float]:
    """Out-of-fold probabilities of a logistic head and its C, chosen by out-of-fold log-loss."""
    usable = valid & (codes != UNLABELLED)
    paths = np.full((len(STRENGTHS), len(codes), n_classes), EPS, np.float32)
    for test in _folds(codes, groups, seed):
        train = usable.copy()
        train[test] = False
        train, test = np.flatnonzero(train), test[valid[test]]
        present = np.unique(codes[train])
        if len(present) < 2 or len(test) == 0:
            paths[:, test[:, None], present] = 1
            continue
        model, x = _logistic(STRENGTHS[0]), projected[train]
        for path, strength in zip(paths, STRENGTHS, strict=True):
            model.set_params(C=strength).fit(x, codes[train])
            path[test[:, None], present] = model.predict_proba(projected[test])
    paths = np.stack([_normalised(path) for path in paths])
    rows = np.flatnonzero(usable)
    losses = -np.log(paths[:, rows, codes[rows]]).mean(axis=1) if len(rows) else np.zeros(len(paths))
    best = int(np.argmin(losses))
    probs = np.where(valid[:, None], paths[best], np.nan)
    return probs, STRENGTHS[best]


def _neighbour_probs(
    values: np.ndarray,
    codes: np.ndarray,
    valid: np.ndarray,
    n_classes: int,
    groups: np.ndarray,
    n_neighbours: int = 20,
) -> np.ndarray:
    """Class shares among the nearest rows by cosine outside a row's own group, weighted by similarity."""
    usable = np.flatnonzero(valid & (codes != UNLABELLED))
    probs = np.full((len(codes), n_classes), EPS)
    if len(usable):
        similar, indices = _nearest(values, valid, usable, groups, min(n_neighbours, len(usable)))
        found = similar > -1.5
        distance = np.where(found, 1 - similar, 0)
        width = max(np.median(distance[found]), EPS) if found.any() else 1.0
        votes = np.exp(-distance / width) * found
        for code in range(n_classes):
            probs[:, code] += (votes * (codes[indices] == code)).sum(axis=1)
    probs = probs / probs.sum(axis=1, keepdims=True)
    probs[~valid] = np.nan
    return probs


def _nearest(
    values: np.ndarray, valid: np.ndarray, usable: np.ndarray, groups: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cosine similarity and row index of the k nearest usable rows of other groups; -2: there is none."""
    unit = np.where(valid[:, None], values, 0).astype(np.float32)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    base, similar, indices = unit[usable], np.empty((len(unit), k), np.float32), np.empty((len(unit), k), int)
    for start in range(0, len(unit), 2048):
        block = slice(start, start + 2048)
        scores = unit[block] @ base.T
        scores[groups[block, None] == groups[usable]] = -2
        best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        similar[block], indices[block] = np.take_along_axis(scores, best, axis=1), usable[best]
    return similar, indices


def _mixture(members: list[np.ndarray], codes: np.ndarray) -> np.ndarray:
    """Mix the members with the weights that best explain the given labels (EM; all are out of sample).

    A row that some members cannot judge is left to the others; with none it stays NaN.
    """
    stack = np.stack(members)
    known = np.isfinite(stack[:, :, 0])
    rows = np.flatnonzero(known.all(axis=0) & (codes != UNLABELLED))
    weights = np.full(len(stack), 1 / len(stack))
    likelihood = stack[:, rows, codes[rows]]
    for _ in range(100 if len(rows) else 0):
        share = likelihood * weights[:, None]
        weights = (share / share.sum(axis=0)).mean(axis=1)
    weight = np.maximum(weights[:, None], EPS) * known
    total = weight.sum(axis=0)
    mixed = (np.where(known[:, :, None], stack, 0) * weight[:, :, None]).sum(axis=0)
    return np.where(total[:, None] > 0, mixed / np.where(total > 0, total, 1)[:, None], np.nan)


def _confident_joint(codes: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Counts (K, K) of given against estimated class; rows sum to the class sizes (Northcutt et al. 2021)."""
    n_classes = probs.shape[1]
    rows = np.flatnonzero((codes != UNLABELLED) & np.isfinite(probs[:, 0]))
    y, p = codes[rows], probs[rows]
    size, mean = np.bincount(y, minlength=n_classes), np.full(n_classes, 1.1)
    for code in np.flatnonzero(size):
        mean[code] = p[y == code, code].mean()
    above = p >= mean - EPS
    confident = above.any(axis=1)
    joint = np.zeros((n_classes, n_classes))
    np.add.at(joint, (y[confident], np.where(above, p, -1).argmax(axis=1)[confident]), 1)
    np.fill_diagonal(joint, np.maximum(joint.diagonal(), 1))
    size = np.bincount(codes[codes != UNLABELLED], minlength=n_classes)
    return joint / joint.sum(axis=1, keepdims=True) * size[:, None]


def _judge(codes: np.ndarray, probs: np.ndarray, trusted: np.ndarray, seed: int) -> pd.DataFrame:
    """Suggestion, score, cut and note of each row, classes as codes."""
    rows, labelled = np.arange(len(codes)), codes != UNLABELLED
    judged = np.isfinite(probs[:, 0])
    p = np.where(judged[:, None], probs, 0)
    others = p.copy()
    others[rows[labelled], codes[labelled]] = -1
    alone = probs.shape[1] == 1
    suggested = np.where(judged, others.argmax(axis=1), codes)
    p_given = np.where(labelled & judged, p[rows, codes], np.nan)
    p_suggested = np.where(judged, np.maximum(others.max(axis=1, initial=-1), 0), np.nan)
    # Equal margins come in a seeded order, not in that of the folders.
    tie = np.random.default_rng(seed).random(len(codes)) * 1e-9
    score = p_suggested - p_given + tie
    joint = _confident_joint(codes, probs)
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
