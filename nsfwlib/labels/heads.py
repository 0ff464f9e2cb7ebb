"""What does a head on frozen features say of rows that it never saw? Groups never cross its folds."""

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, Self

import numpy as np
from scipy.spatial.distance import pdist
from scipy.special import softmax
from sklearn.cluster import KMeans
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression
from sklearn.utils.extmath import randomized_svd

from nsfwlib.labels.rows import EPS, UNLABELLED, Classes, encode, group_codes, normalised

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # candidates for the head's C, from strong to weak regularisation
BENT_STRENGTHS = (1e-2, 1e-1, 1.0, 10.0)  # likewise, for the head on bent features
SHRINKAGE = (0.3,)  # of the clouds' common covariance towards a sphere; .5, or Ledoit and Wolf's, rank .003 worse
FLOOR = 1e-30  # the least probability out of fold that such a head gives a class
LANDMARKS = 400
DIMENSIONS = 256  # wider blocks are projected on this many principal components
FOLDS = 5
SUB_KINDS = 10  # of each class; with 6 or 16, misfiled ones rank .04 and .11 AP worse, the rest alike
SAMPLE = 50_000  # about so many rows teach the heads, weighted by what they stand for,
RARE = 1_000  # and of each class at least so many, or all
COMPONENT_SAMPLE = 20_000  # rows that the principal components are found on
LIMIT = 1e15  # larger features overflow when they are squared and summed as float32
CHUNK = 16_384  # rows at a time where a whole float32 copy would not fit
_Logistic = partial(LogisticRegression, max_iter=200, tol=1e-3, warm_start=True)


class LinearHead(NamedTuple):
    """A head whose log-odds are linear in (N, D) features: probabilities are softmax((X - mean) @ kernel + bias)."""

    classes_: np.ndarray  # (K,) in the order that was given
    mean: np.ndarray  # (D,)
    kernel: np.ndarray  # (D, K)
    bias: np.ndarray  # (K,); of a class without rows -inf
    out_of_fold: np.ndarray  # (N, K) probabilities of the rows it was fitted on, from heads that never saw their group

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Probabilities (N, K), columns in the order of `classes_`; NaN for rows that are not finite."""
        values, valid = np.asarray(X), valid_rows(np.asarray(X))
        answers = _project(values, valid, self.mean, self.kernel.astype(np.float32)) + self.bias
        return np.where(valid[:, None], softmax(answers, axis=1), np.nan)


def fit_head(
    features: np.ndarray,
    labels: Any,
    *,
    classes: Classes = None,
    groups: Any = None,
    weights: np.ndarray | None = None,
    clouds: bool = False,
    seed: int = 0,
) -> LinearHead:
    """Fit the head that judges labels on all valid rows: that of 02's first stage, and of 03's comparison.

    `features` is (N, D); unlabelled rows and rows with NaN are left out; `weights` (N,) say how much each row counts.
    It is multinomial logistic regression, its penalty chosen by out-of-fold log-loss, folds by `groups`; or, with
    `clouds`, a shrunken linear discriminant, whose log-odds are too sure.
    """
    codes, classes = encode(labels, classes)
    values, n_classes = np.asarray(features), len(classes)
    valid = valid_rows(values) & (codes != UNLABELLED)
    if not valid.any():
        raise ValueError(f"Expected rows with a label and finite features. Received {len(values)}, none of that kind.")
    weights = np.ones(len(codes)) if weights is None else np.asarray(weights)
    mean, directions = _directions(values, valid, seed)
    x, group = _project(values, valid, mean, directions), group_codes(groups, len(codes))
    # Clouds are too sure: were that cut off out of fold, their log-odds would get too large a share of a sum.
    how = {"strengths": SHRINKAGE, "clouds": True, "floor": FLOOR} if clouds else {}
    probs, strength = out_of_fold_probs(x, codes, valid, n_classes, group, seed, weights=weights, **how)
    kernel, bias, present = np.zeros((len(mean), n_classes)), np.full(n_classes, -np.inf), np.unique(codes[valid])
    bias[present] = 0
    if len(present) > 1:
        model = (_Clouds if clouds else _Logistic)(C=strength).fit(x[valid], codes[valid], weights[valid])
        halves = [[-0.5], [0.5]] if len(model.coef_) == 1 else [[1.0]]  # scikit-learn keeps one difference of two
        kernel[:, present] = directions @ (model.coef_ * halves).T
        bias[present] = (model.intercept_[:, None] * halves).ravel()
    return LinearHead(np.array(classes), mean, kernel, bias, probs)


def out_of_fold_probs(
    x: np.ndarray,
    codes: np.ndarray,
    valid: np.ndarray,
    n_classes: int,
    groups: np.ndarray,
    seed: int,
    *,
    weights: np.ndarray,
    strengths: Sequence[float] = STRENGTHS,
    clouds: bool = False,
    floor: float = EPS,
) -> tuple[np.ndarray, float]:
    """Out-of-fold probabilities (N, K) of a logistic head, or of `_Clouds`, and its C, chosen by their log-loss."""
    usable = valid & (codes != UNLABELLED)
    fold = group_folds(np.where(usable, codes, UNLABELLED), groups, seed)
    rows = np.flatnonzero(usable)
    taught, stands_for = _taught(codes, rows, seed)
    stands_for = stands_for * weights[taught]
    models = [(_Clouds if clouds else _Logistic)(C=strengths[0]) for _ in range(FOLDS)]
    best, least, chosen = np.full((len(codes), n_classes), EPS), np.inf, strengths[0]
    for strength in strengths:
        probs = np.full((len(codes), n_classes), EPS)
        for k, model in enumerate(models):  # each starts where it stopped before
            train, test = taught[fold[taught] != k], np.flatnonzero(valid & (fold == k))
            present = np.unique(codes[train])
            if can_tell := len(train) > len(present) > 1:
                model.C = strength
                model.fit(x[train].astype(np.float32), codes[train], stands_for[fold[taught] != k])
            for part in (test[block] for block in chunks(len(test))):
                probs[part[:, None], present] = model.predict_proba(x[part].astype(np.float32)) if can_tell else 1.0
        probs = normalised(probs, floor)
        loss = -np.average(np.log(probs[rows, codes[rows]]), weights=weights[rows]) if len(rows) else 0.0
        if loss >= least:
            break  # the loss has one minimum in C: weaker heads cost the most and win nothing
        best, least, chosen = probs, loss, strength
    best[~valid] = np.nan
    return best, chosen


class _Clouds:
    """Linear discriminant: each class is a Gaussian cloud of one shape, its covariance shrunk by C towards a sphere.

    Rows have weights, which scikit-learn's does not heed. Wrong labels shift a mean less than they bend a boundary: as
    good where they lie anywhere, .63 for .43 AP where a sub-kind is misfiled (Lee et al. 2019, Robust Inference via
    Generative Classifiers for Handling Noisy Labels).
    """

    def __init__(self, C: float) -> None:
        self.C = C

    def fit(self, x: np.ndarray, codes: np.ndarray, counts: np.ndarray) -> Self:
        classes, codes = np.unique(codes, return_inverse=True)
        share = np.eye(len(classes))[codes] * counts[:, None]
        size = np.maximum(share.sum(axis=0), EPS)
        means = (share / size).T @ x
        spread = (x - means[codes]) * np.sqrt(counts / size.sum())[:, None]
        common = spread.T @ spread
        sphere = np.eye(len(common)) * np.trace(common) / len(common)
        self.coef_ = np.linalg.lstsq((1 - self.C) * common + self.C * sphere, means.T, rcond=None)[0].T
        self.intercept_ = np.log(size / size.sum()) - (means * self.coef_).sum(axis=1) / 2
        return self

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        return softmax(x @ self.coef_.T + self.intercept_, axis=1)


def _taught(codes: np.ndarray, rows: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows that teach the heads, and how many rows each stands for: about SAMPLE of many, of rare classes all."""
    size = np.maximum(np.bincount(codes[rows], minlength=1), 1)
    share = np.clip(np.maximum(SAMPLE / max(len(rows), 1), RARE / size), 0, 1)[codes[rows]]
    drawn = np.random.default_rng(seed).random(len(rows)) < share
    return rows[drawn], 1 / share[drawn]


def bent_features(x: np.ndarray, valid: np.ndarray, seed: int) -> np.ndarray:
    """(N, M) float16 features in which a plane bends: Nystroem's, of a radial kernel as wide as the median distance."""
    rows = np.flatnonzero(valid)
    drawn = sampled(rows, COMPONENT_SAMPLE, seed)
    width = max(np.median(pdist(x[sampled(rows, 1000, seed)], "sqeuclidean")), EPS) if len(rows) > 1 else 1.0
    landmarks = max(1, min(LANDMARKS, len(drawn) // 2))
    kernel = Nystroem(gamma=1 / width, n_components=landmarks, random_state=seed).fit(x[drawn])
    mean, scale = kernel.transform(x[drawn]).mean(axis=0), len(rows) ** 0.5 / 10  # one range of C serves every N
    return np.concatenate([(scale * (kernel.transform(x[part]) - mean)).astype(np.float16) for part in chunks(len(x))])


def group_folds(codes: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """The fold (0 … 4) of each row: stratified by label, a group never crosses folds."""
    _, first, place = np.unique(groups, return_index=True, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(first))
    order = order[np.argsort(codes[first][order], kind="stable")]
    return (np.argsort(order) % FOLDS)[place]  # dealt in turn


def sub_kinds(x: np.ndarray, codes: np.ndarray, valid: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """Clusters (N,) of whole groups within a given class, SUB_KINDS or one for five groups; below 0, groups in none."""
    _, first, place = np.unique(groups, return_index=True, return_inverse=True)
    kinds = -1 - np.arange(len(first))
    for code in np.unique(codes[codes != UNLABELLED]):
        rows = np.flatnonzero((codes[first] == code) & valid[first])
        n_clusters = min(SUB_KINDS, len(rows) // 5)
        if n_clusters > 1:
            model, known = KMeans(n_clusters, n_init=1, random_state=seed), sampled(rows, COMPONENT_SAMPLE, seed)
            with warnings.catch_warnings(action="ignore", category=UserWarning):  # of fewer distinct rows than clusters
                model.fit(x[first[known]])
            kinds[rows] = kinds.max() + 1 + model.predict(x[first[rows]])
    return kinds[place]


def principal_features(values: np.ndarray, valid: np.ndarray, seed: int, *, standardise: bool = True) -> np.ndarray:
    """(N, D) features on their principal directions: (N, D') float32; rows that are not valid become zero."""
    return _project(values, valid, *_directions(values, valid, seed, standardise=standardise))


def _directions(
    values: np.ndarray, valid: np.ndarray, seed: int, *, standardise: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and directions (D, D') that standardise, then rotate on at most DIMENSIONS components."""
    rows = np.flatnonzero(valid)
    if not len(rows):
        raise ValueError(f"Expected features with finite rows. Received {len(values)} rows, none of them finite.")
    sample = values[sampled(rows, COMPONENT_SAMPLE, seed)].astype(np.float32)
    mean, scale = sample.mean(axis=0), sample.std(axis=0)
    scale[scale == 0] = 1
    if not standardise:
        mean, scale = np.zeros_like(mean), np.ones_like(scale)
    if sample.shape[1] <= DIMENSIONS:
        return mean, np.diag(1 / scale)
    sample = (sample - mean) / scale  # an L2 penalty and a cosine notice no rotation, only the truncation
    basis = randomized_svd(sample, DIMENSIONS, n_iter=2, power_iteration_normalizer="LU", random_state=seed)[2]
    return mean, (basis / scale).T


def _project(values: np.ndarray, valid: np.ndarray, mean: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """A chunk of rows at a time: a whole float32 copy of wide features would not fit."""
    projected = np.zeros((len(values), directions.shape[1]), np.float32)
    for rows in chunks(len(values)):
        keep = valid[rows]
        projected[rows][keep] = (values[rows][keep].astype(np.float32) - mean) @ directions
    return projected


def valid_rows(values: np.ndarray) -> np.ndarray:
    """Rows (N,) of (N, D) in which everything is finite; an array that nobody can compute with is an error."""
    if values.dtype.kind not in "biuf" or not values.shape[1]:
        raise ValueError(f"Expected features of numbers, (N, D). Received: {values.dtype}, {values.shape}. Use floats.")
    valid = np.zeros(len(values), bool)
    for rows in chunks(len(values)):
        valid[rows] = np.isfinite(values[rows]).all(axis=1)
        finite = values[rows][valid[rows]]
        largest = max(float(finite.max(initial=0)), -float(finite.min(initial=0)))
        if largest > LIMIT:
            raise ValueError(f"Expected features up to {LIMIT:g}. Received: {largest:g}. Scale them, or fill with NaN.")
    return valid


def sampled(rows: np.ndarray, most: int, seed: int) -> np.ndarray:
    """The rows, or `most` of them at random, in order."""
    return rows if len(rows) <= most else np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def chunks(n: int, size: int = CHUNK) -> list[slice]:
    """0 … n in slices of `size`."""
    return [slice(start, start + size) for start in range(0, n, size)]
