"""Who lies near a picture, in another near-duplicate group, and what do they vote?"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from nsfwlib.labels.heads import DIMENSIONS, chunks
from nsfwlib.labels.rows import EPS, group_codes, normalised

NEIGHBOURS = (20, 50)  # that vote, in an election each; 10 and 20 rank .004 AP worse
EXACT_ROWS = 15_000  # beyond, neighbours come from an index: of 12,000 rows the exact ones take 2.4 s, the index 3.2 s
CELLS = 64  # of the index, that are searched: 99 % of the exact neighbours of a network's features, 79 % of raw patches
CANDIDATES = 120  # rows the index proposes; the k nearest of other groups are picked from them exactly


def neighbour_votes(x: np.ndarray, given: np.ndarray, valid: np.ndarray, groups: np.ndarray) -> list[np.ndarray]:
    """What the nearest valid rows of other groups vote, few and many of them: (N, K) each, NaN for other rows.

    `given` (N, K) holds how much a row counts for its class. Nearest by cosine; a vote decays with distance over its
    median. Normalises `x` in place.
    """
    usable = np.flatnonzero(valid & given.any(axis=1))
    if not len(usable):
        return [np.where(valid[:, None], np.full(given.shape, 1 / given.shape[1]), np.nan)] * len(NEIGHBOURS)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    similar, indices = _nearest(x, usable, groups, min(NEIGHBOURS[-1], len(usable)))
    found = similar > -1.5
    distance = np.where(found, 1 - similar, 0)
    votes = np.exp(-distance / (max(np.median(distance[found]), EPS) if found.any() else 1.0)) * found
    answers = []
    for k in NEIGHBOURS:  # a class at a time: all at once would be N x k x K
        columns = [(votes[:, :k] * column[indices[:, :k]]).sum(axis=1) for column in np.ascontiguousarray(given.T)]
        answers.append(normalised(np.where(valid[:, None], np.stack(columns, axis=1) + EPS, np.nan)))
    return answers


def _nearest(unit: np.ndarray, usable: np.ndarray, groups: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Similarity and row index (N, k) of the nearest usable rows of other groups, nearest first; -2: there is none."""
    # The index proposes CANDIDATES: a row whose group holds nearly as many may be left with fewer votes.
    index = _index(unit, usable) if len(usable) > EXACT_ROWS else None
    similar, indices = np.empty((len(unit), k), np.float32), np.empty((len(unit), k), np.int32)
    found, base = usable[None], unit[usable].T if index is None else None
    step = 1024 if index else max(64, 20_000_000 // len(usable))  # 1024 x 120 candidates x 256 float32 = 126 MB
    for block in chunks(len(unit), step):
        if index is None:
            scores = unit[block] @ base
        else:
            places = index.search(unit[block], CANDIDATES)[1]
            found = usable[places]
            scores = np.where(places < 0, np.float32(-2), (unit[found] @ unit[block, :, None])[..., 0])
        scores[groups[found] == groups[block, None]] = -2
        best = np.argpartition(scores, -k, axis=1)[:, -k:]
        order = np.argsort(-np.take_along_axis(scores, best, 1), axis=1, kind="stable")
        best = np.take_along_axis(best, order, 1)
        similar[block] = np.take_along_axis(scores, best, 1)
        indices[block] = np.take_along_axis(np.broadcast_to(found, scores.shape), best, 1)
    return similar, indices


def _index(unit: np.ndarray, usable: np.ndarray) -> Any:
    """An inverted-file index that looks into the CELLS cells nearest to a row; wide vectors are 4-bit codes there."""
    import faiss  # 30 MB of library, for large data sets only

    n_cells, width = int(2 * len(usable) ** 0.5), unit.shape[1]
    codes = f"PQ{width // 2}x4fs" if width == DIMENSIONS else "Flat"
    # Distances of unit vectors order as cosines do, but a mean common to all does not eat the codes' precision.
    index = faiss.index_factory(width, f"IVF{n_cells},{codes}", faiss.METRIC_L2)
    index.train(unit[usable[:: max(1, len(usable) // (50 * n_cells))]])
    for block in chunks(len(usable)):
        index.add(unit[usable[block]])
    index.nprobe = CELLS  # type: ignore[attr-defined]
    return index


def nearest(features: np.ndarray, images: pd.DataFrame, *, k: int = 8) -> Callable[[str], pd.DataFrame]:
    """Look up which pictures voted on a label: the `k` most similar ones outside its near-duplicate group.

    Features are (N, D), rows in the order of `images` with `path`, `given_label` and, where known, `group`. What is
    returned takes a path and gives a table with the columns path, given_label, similarity (cosine).
    """
    positions = pd.Index(images["path"])
    groups = group_codes(images.get("group"), len(images))
    norms = np.maximum(np.linalg.norm(np.asarray(features, np.float32), axis=1), 1e-12)

    def look_up(path: str) -> pd.DataFrame:
        row = positions.get_loc(path)
        cosine = features @ features[row].astype(np.float32) / (norms * norms[row])
        best = pd.Series(cosine).where(np.isfinite(cosine) & (groups != groups[row])).nlargest(k)
        return images[["path", "given_label"]].iloc[best.index].assign(similarity=best.array).reset_index(drop=True)

    return look_up
