"""Which labels are wrong? Ranks every row by how much likelier another class is than the given one.

Each block of features gets two members that never saw the row they judge: an out-of-fold logistic head, and
the votes of the nearest neighbours outside its near-duplicate group. A mixture weighs them by the likelihood
of the given labels. The neighbours then vote once more, not with their given labels but with what this mixture
makes of them. The margin, corrected for classes that are rarely sure of themselves, ranks; the confident
joint cuts. Near-duplicates under different labels testify against one another.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.utils.extmath import randomized_svd

EPS = 1e-6  # the least probability any member gives a class
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # candidates for the head's C, from strong to weak regularisation
DIMENSIONS = 256  # wider blocks are projected on this many principal components
TINY_CLASS = 10  # below so many rows no ranking can be believed
UNLABELLED = -1
FOLDS = 5
SAMPLE = 50_000  # rows that the head's C is chosen on
COMPONENT_SAMPLE = 20_000  # rows that the principal components are found on
EXACT_ROWS = 100_000  # beyond, neighbours come from an approximate index
CELLS = 64  # of the index, that are searched: 78 % of the exact neighbours even in ten unstructured clouds
CANDIDATES = 80  # rows the index proposes; the k nearest of other groups are picked from them exactly
WITNESS = 0.25  # weight of a divided group's other labels: near-duplicates are no independent witnesses
CHUNK = 16_384  # rows at a time where a whole float32 copy would not fit

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
    codes, classes = _encode(labels, classes)
    trusted, groups = _flags(trusted, len(codes)), _group_codes(groups, len(codes))
    if pred_probs is None and features is None:
        raise ValueError("Expected pred_probs or features. Received neither: pass one of them.")
    probs = None if pred_probs is None else _checked_probs(pred_probs, len(codes), classes)
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
    codes, classes = _encode(labels, classes)
    groups, trusted = _group_codes(groups, len(codes)), _flags(trusted, len(codes))
    return _estimate(codes, [], features, len(classes), groups, trusted, seed)


def noise_matrix(labels: Any, pred_probs: np.ndarray, *, classes: Sequence[Hashable] | None = None) -> pd.DataFrame:
    """Confident joint: how many rows of each given label (rows) truly belong to each class (columns).

    Counts after Northcutt et al. 2021 (Confident Learning), scaled so that a row sums to its class size;
    unlabelled rows and rows whose probabilities are not valid are not counted.
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
    if not valid.any():
        raise ValueError(f"Expected rows with a label and finite features. Received {len(values)}, none of that kind.")
    if C is None:
        projected = _project(values, valid, *_components(values, valid, seed))
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
        values, valid = np.asarray(X), np.ones(len(X), bool)
        self.mean_, self.directions_ = _components(values, valid, 0)
        present = np.unique(codes)
        self.only_ = present[0] if len(present) == 1 else None
        if self.only_ is None:
            self.model_ = _logistic(self.C).fit(_project(values, valid, self.mean_, self.directions_), codes)
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Probabilities (N, K), columns in the order of `classes_`; NaN for rows that are not finite."""
        values = np.asarray(X)
        valid, probs = _valid_rows(values), np.zeros((len(values), len(self.classes_)))
        if self.only_ is not None:
            probs[:, self.only_] = 1
        else:
            projected = _project(values, valid, self.mean_, self.directions_)
            probs[:, self.model_.classes_] = self.model_.predict_proba(projected)
        probs /= probs.sum(axis=1, keepdims=True)  # float32's rounding would pass for a wrong sum
        probs[~valid] = np.nan
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
        valid = _valid_rows(block)
        x = _project(block, valid, *_components(block, valid, seed))
        heads.append(_head_probs(x, codes, valid, n_classes, groups, seed)[0])
        x = _project(block, valid, *_components(block, valid, seed, standardise=False))
        neighbourhoods.append(_neighbours(x, codes, valid, groups))
    given = np.eye(n_classes + 1, dtype=np.float32)[codes, :n_classes]
    votes = [_vote(near, given) for near in neighbourhoods]
    weights = _weights([*heads, *votes], codes)
    first = _mix([*heads, *votes], weights)
    second = np.full_like(first, np.nan)
    fold = _folds(np.where(np.isfinite(first[:, 0]), codes, UNLABELLED), groups, seed)
    for k in range(FOLDS):
        # What the neighbours of fold k believe must not rest on the votes of fold k.
        votes = [_vote(near, given, fold != k) for near in neighbourhoods]
        beliefs = _beliefs(codes, _mix([*heads, *votes], weights), first, trusted)
        rows = np.flatnonzero(fold == k)
        votes = [_vote(near, beliefs, rows=rows) for near in neighbourhoods]
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


def _chunks(n: int) -> list[slice]:
    return [slice(start, start + CHUNK) for start in range(0, n, CHUNK)]


def _valid_rows(values: np.ndarray) -> np.ndarray:
    return np.concatenate([np.isfinite(values[rows]).all(axis=1) for rows in _chunks(len(values))] or [[]]) > 0


def _components(
    values: np.ndarray, valid: np.ndarray, seed: int, *, standardise: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and directions (D, D') that standardise, then rotate on at most DIMENSIONS components.

    Neither a logistic head under an L2 penalty nor a cosine notices a rotation, only the truncation.
    """
    rows = np.flatnonzero(valid)
    if not len(rows):
        raise ValueError(f"Expected features with finite rows. Received {len(values)} rows, none of them finite.")
    if len(rows) > COMPONENT_SAMPLE:
        rows = np.sort(np.random.default_rng(seed).choice(rows, COMPONENT_SAMPLE, replace=False))
    sample = values[rows].astype(np.float32)
    mean, scale = sample.mean(axis=0), sample.std(axis=0)
    scale[scale == 0] = 1
    if not standardise:
        mean, scale = np.zeros_like(mean), np.ones_like(scale)
    if sample.shape[1] <= DIMENSIONS:
        return mean, np.diag(1 / scale)
    sample = (sample - mean) / scale
    basis = randomized_svd(sample, DIMENSIONS, n_iter=2, power_iteration_normalizer="LU", random_state=seed)[2]
    return mean, (basis / scale).T


def _project(values: np.ndarray, valid: np.ndarray, mean: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """(N, D') float32, a chunk of rows at a time; rows that are not valid become zero."""
    projected = np.zeros((len(values), directions.shape[1]), np.float32)
    for rows in _chunks(len(values)):
        keep = valid[rows]
        projected[rows][keep] = (values[rows][keep].astype(np.float32) - mean) @ directions
    return projected


def _logistic(C: float) -> LogisticRegression:
    return LogisticRegression(C=C, max_iter=200, tol=1e-3, warm_start=True)


def _folds(codes: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """The fold (0 … 4) of each row: stratified by label, a group never crosses folds."""
    first = np.unique(groups, return_index=True)[1]
    order = np.random.default_rng(seed).permutation(len(first))
    order = order[np.argsort(codes[first][order], kind="stable")]
    fold = np.empty(len(first), int)
    fold[order] = np.arange(len(first)) % FOLDS
    return fold[groups]


def _head_probs(
    x: np.ndarray, codes: np.ndarray, valid: np.ndarray, n_classes: int, groups: np.ndarray, seed: int
) -> tuple[np.ndarray, float]:
    """Out-of-fold probabilities (N, K) of a logistic head and its C, chosen by out-of-fold log-loss."""
    usable = valid & (codes != UNLABELLED)
    fold = _folds(np.where(usable, codes, UNLABELLED), groups, seed)
    rows = np.flatnonzero(usable)
    judged = valid
    if len(rows) > SAMPLE:
        judged = np.zeros(len(x), bool)
        judged[np.random.default_rng(seed).choice(rows, SAMPLE, replace=False)] = True
    models = [_logistic(STRENGTHS[0]) for _ in range(FOLDS)]
    best, least = None, np.inf
    for strength in STRENGTHS:
        probs = _out_of_fold(models, strength, x, codes, judged, usable & judged, fold, n_classes)
        rows = np.flatnonzero(usable & judged)
        loss = -np.log(probs[rows, codes[rows]]).mean() if len(rows) else 0.0
        if loss >= least:
            break  # the loss has one minimum in C: weaker heads cost the most and win nothing
        best, least, chosen = probs, loss, strength
    if judged is not valid:
        best = _out_of_fold(models, chosen, x, codes, valid, usable, fold, n_classes)
    best[~valid] = np.nan
    return best, chosen


def _out_of_fold(
    models: list[LogisticRegression],
    strength: float,
    x: np.ndarray,
    codes: np.ndarray,
    judged: np.ndarray,
    usable: np.ndarray,
    fold: np.ndarray,
    n_classes: int,
) -> np.ndarray:
    """Probabilities of the judged rows, each from the model of its fold, started where it stopped before."""
    probs = np.full((len(codes), n_classes), EPS)
    for k, model in enumerate(models):
        train, test = np.flatnonzero(usable & (fold != k)), np.flatnonzero(judged & (fold == k))
        present = np.unique(codes[train])
        if len(present) > 1 and len(test):
            model.set_params(C=strength).fit(x[train], codes[train])
            probs[test[:, None], present] = model.predict_proba(x[test])
        else:
            probs[test[:, None], present] = 1
    return _normalised(probs)


class _Neighbours(NamedTuple):
    """The nearest labelled rows of other groups, in one block of features."""

    indices: np.ndarray  # int32 (N, k)
    votes: np.ndarray  # float32 (N, k), how much each counts; 0: there is none
    valid: np.ndarray  # bool (N,), rows whose features are finite


def _neighbours(x: np.ndarray, codes: np.ndarray, valid: np.ndarray, groups: np.ndarray, k: int = 20) -> _Neighbours:
    """The k nearest by cosine. Normalises `x` in place; a vote decays with the distance over its median."""
    usable = np.flatnonzero(valid & (codes != UNLABELLED))
    if not len(usable):
        return _Neighbours(np.zeros((len(x), 1), np.int32), np.zeros((len(x), 1), np.float32), valid)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    search = _nearest if len(usable) <= EXACT_ROWS else _nearest_approximately
    similar, indices = search(x, usable, groups, min(k, len(usable)))
    found = similar > -1.5
    distance = np.where(found, 1 - similar, 0)
    width = max(np.median(distance[found]), EPS) if found.any() else 1.0
    return _Neighbours(indices, np.exp(-distance / width) * found, valid)


def _vote(
    near: _Neighbours,
    beliefs: np.ndarray,
    voters: np.ndarray | None = None,
    *,
    rows: np.ndarray | slice = slice(None),
) -> np.ndarray:
    """Weighted mean (rows, K) of the neighbours' beliefs (N, K), of `voters` (N,) only."""
    indices, votes = near.indices[rows], near.votes[rows]
    if voters is not None:
        votes = votes * voters[indices]
    columns = [(votes * belief[indices]).sum(axis=1) for belief in np.ascontiguousarray(beliefs.T)]
    probs = np.stack(columns, axis=1).astype(float) + EPS
    probs /= probs.sum(axis=1, keepdims=True)
    probs[~near.valid[rows]] = np.nan
    return probs


def _nearest(unit: np.ndarray, usable: np.ndarray, groups: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Similarity and row index (N, k) of the nearest usable rows of other groups; -2: there is none."""
    base, others = unit[usable].T, groups[usable]
    similar, indices = np.empty((len(unit), k), np.float32), np.empty((len(unit), k), np.int32)
    step = max(64, 20_000_000 // len(usable))
    for start in range(0, len(unit), step):
        block = slice(start, start + step)
        scores = unit[block] @ base
        scores[groups[block, None] == others] = -2
        best = np.argpartition(scores, -k, axis=1)[:, -k:]
        similar[block], indices[block] = np.take_along_axis(scores, best, axis=1), usable[best]
    return similar, indices


def _nearest_approximately(
    unit: np.ndarray, usable: np.ndarray, groups: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """As `_nearest`, from an inverted-file index: looks into the CELLS cells nearest to each row.

    In the cells, wide vectors are compared by 4-bit codes; the best CANDIDATES of them are then compared exactly. A row
    whose group holds more than CANDIDATES - k rows may be left with fewer votes.
    """
    try:
        import faiss
    except ImportError:
        raise ImportError(
            f"Expected faiss for the neighbours of more than {EXACT_ROWS} rows. Received {len(usable)} rows "
            "and no faiss. Run: pip install 'nsfwlib[ann]'"
        ) from None
    n_cells, width = int(2 * len(usable) ** 0.5), unit.shape[1]
    codes = f"PQ{width // 2}x4fs" if width == DIMENSIONS else "Flat"
    index = faiss.index_factory(width, f"IVF{n_cells},{codes}", faiss.METRIC_INNER_PRODUCT)
    index.train(unit[usable[:: max(1, len(usable) // (50 * n_cells))]])
    for block in _chunks(len(usable)):
        index.add(unit[usable[block]])
    index.nprobe = CELLS
    similar, indices = np.empty((len(unit), k), np.float32), np.empty((len(unit), k), np.int32)
    step = 2048  # rows whose candidates are compared at a time: 2048 x 80 x 256 float32 = 168 MB
    for block in (slice(start, start + step) for start in range(0, len(unit), step)):
        found = index.search(unit[block], CANDIDATES)[1]
        missing, found = found < 0, usable[found]
        scores = (unit[found] @ unit[block, :, None])[..., 0]
        scores[missing | (groups[found] == groups[block, None])] = -2
        best = np.argpartition(scores, -k, axis=1)[:, -k:]
        similar[block], indices[block] = np.take_along_axis(scores, best, 1), np.take_along_axis(found, best, 1)
    return similar, indices


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
