"""Which pictures are the same, or nearly? Exact copies, near-duplicate groups, leaks between splits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from nsfwlib.data.likeness import MIN_CORRELATION, aligned_likeness, quick_likeness

MAX_DISTANCE = 16  # bits of 64: beyond it even the second look finds more chance than copies
FALSE_NEIGHBOURS = 0.01  # expected per image, where the hash alone decides
_FREEDOM = 0.02  # aligned strangers correlate that much better than strangers left in place
_HOPELESS = 0.35  # correlation below which aligning two thumbnails is not tried
_MAX_ALIGNED = 200_000  # pairs, the likeliest first: about a millisecond each
_CROWDED = 8  # hashes a bucket: from here on a bucket at a time is faster than a flip at a time
_OUTRIGHT = 1e9  # pairs that are compared one by one: seconds
_PLAIN = 0.02  # contrast (standard deviation, 0–1) below which a picture is blank: its hash is noise
Thumbs = Callable[[np.ndarray], np.ndarray]  # positions (P,) → grey thumbnails (P, 32, 32)


def group_near_duplicates(
    hashes: np.ndarray,
    *,
    max_distance: int,
    mirrored: np.ndarray | None = None,
    thumbs: Thumbs | None = None,
    blank: np.ndarray | None = None,
) -> np.ndarray:
    """Connect near-duplicates → int64 (N,): group numbers 0…G-1 in order of appearance.

    Perceptual hashes percolate: one false neighbour per image glues everything together. So where only the
    hashes are known, `max_distance` is lowered to the largest distance at which an image of this table has at
    most 0.01 false neighbours (`safe_distance`). With `thumbs`, every pair needs a second look at the pictures
    (`confirmed`), and `max_distance` is lowered only to bound the work.

    Args:
        hashes: uint64 (N,), perceptual hashes.
        max_distance: Hamming distance in bits, 0…64.
        mirrored: uint64 (N,), hashes of the mirror images: a picture and a mirrored copy are near-duplicates.
        thumbs: positions (P,) → uint8 (P, 32, 32), the pictures' grey thumbnails.
        blank: bool (N,), pictures without content; they are joined with nothing.

    Raises:
        ValueError: `max_distance` outside 0…64, or arrays of different lengths.
    """
    hashes, mirrored = _validated(hashes, mirrored, max_distance)
    values, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    mirrors = None if mirrored is None else mirrored[first]
    if thumbs is None:
        distance = safe_distance(values, max_distance=max_distance, tries=1 if mirrored is None else 2)
    else:
        distance = affordable_distance(values, max_distance)
    left, right, flipped = _candidates(values, mirrors, distance)
    same_left, same_right = first[inverse], np.arange(len(hashes))  # equal hashes: each with the first
    left, right = np.concatenate([first[left], same_left]), np.concatenate([first[right], same_right])
    flipped = np.concatenate([flipped, np.zeros(len(hashes), dtype=bool)])
    keep = left != right
    if blank is not None:
        keep &= ~(blank[left] | blank[right])
    left, right, flipped = left[keep], right[keep], flipped[keep]
    if thumbs is not None:
        alike = confirmed_pairs(left, right, thumbs, flipped=flipped)
        left, right = left[alike], right[alike]
    return joined_pairs(left, right, len(hashes))


def _validated(
    hashes: np.ndarray, mirrored: np.ndarray | None, max_distance: int
) -> tuple[np.ndarray, np.ndarray | None]:
    hashes = np.asarray(hashes, dtype=np.uint64)
    mirrored = None if mirrored is None else np.asarray(mirrored, dtype=np.uint64)
    if not 0 <= max_distance <= 64:
        raise ValueError(f"max_distance must be 0…64 bits. Received: {max_distance}")
    if mirrored is not None and mirrored.shape != hashes.shape:
        raise ValueError(f"mirrored must have the shape of hashes, {hashes.shape}. Received: {mirrored.shape}")
    return hashes, mirrored


def joined_pairs(left: np.ndarray, right: np.ndarray, n: int) -> np.ndarray:
    """Connected components of the pairs (left[i], right[i]) → int64 (n,), numbered in order of appearance."""
    graph = coo_array((np.ones(len(left), dtype=bool), (left, right)), shape=(n, n))
    _, labels = connected_components(graph, directed=False)
    return pd.factorize(labels)[0].astype(np.int64)


def safe_distance(hashes: np.ndarray, *, max_distance: int = 64, tries: int = 1, seed: int = 0) -> int:
    """The largest distance at which chance gives an image at most 0.01 neighbours among these hashes.

    Chance rules where an image has ten neighbours or more, however many true copies the table holds. There
    the logarithm of their number is a parabola in the distance, very nearly; it is fitted to distances of
    pairs drawn at random and continued to 0.01.

    Args:
        tries: comparisons made per pair, 2 where mirror images are compared as well.
    """
    n = len(hashes)
    if n < 20:  # too few to say anything of chance, too few for it to do harm
        return max_distance
    counts = _sampled_distances(hashes, hashes, seed=seed)
    expected = np.cumsum(counts) / counts.sum() * (n - 1) * tries
    fitted = np.flatnonzero((expected >= min(10, n / 20)) & (expected <= n / 4))
    if len(fitted) < 3:  # most hashes are far too alike to tell anything by them
        return 0
    curve = np.polynomial.Polynomial.fit(fitted, np.log(expected[fitted]), 2)
    predicted = np.exp(curve(np.arange(fitted[0])))
    return int(min(max(np.searchsorted(predicted, FALSE_NEIGHBOURS, side="right") - 1, 0), max_distance))


def _sampled_distances(hashes: np.ndarray, others: np.ndarray, *, seed: int, shifts: int = 300) -> np.ndarray:
    """Histogram (65,) of the distances between hashes[i] and others[j], i ≠ j drawn at random."""
    order = np.random.default_rng(seed).permutation(len(hashes))
    hashes, others = hashes[order], others[order]
    counts = np.zeros(65, dtype=np.int64)
    steps = np.unique(np.linspace(1, len(hashes) - 1, shifts).astype(int))
    for step in steps:
        counts += np.bincount(np.bitwise_count(hashes ^ np.roll(others, step)), minlength=65)
    return counts


def affordable_distance(hashes: np.ndarray, max_distance: int, *, budget: float = 20.0) -> int:
    """The largest distance with at most `budget` candidates per image: each costs a second look.

    In big tables the search has its price as well: two bands may differ by 2 bits, or 1, not more.
    """
    n = len(hashes)
    if n < 2:
        return max_distance
    counts = _sampled_distances(hashes, hashes, seed=0, shifts=50)
    expected = np.cumsum(counts) / counts.sum() * (n - 1)
    quick = 64 if n**2 <= _OUTRIGHT else 11 if n <= 300_000 else 7
    return int(min(max(np.searchsorted(expected, budget, side="right") - 1, 4), quick, max_distance))


def _candidates(
    hashes: np.ndarray, mirrors: np.ndarray | None, distance: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of positions (left < right), and whether right must be mirrored to resemble left."""
    left, right = near_pairs(hashes, hashes, max_distance=distance)
    flipped = np.zeros(len(left), dtype=bool)
    if mirrors is None:
        return left, right, flipped
    more_left, more_right = near_pairs(hashes, mirrors, max_distance=distance)
    keep = more_left != more_right
    more_left, more_right = np.sort([more_left[keep], more_right[keep]], axis=0)
    pairs = np.unique(more_left * np.int64(len(hashes)) + more_right)
    more_left, more_right = np.divmod(pairs, max(len(hashes), 1))
    flipped = np.concatenate([flipped, np.ones(len(pairs), dtype=bool)])
    return np.concatenate([left, more_left]), np.concatenate([right, more_right]), flipped


def near_pairs(a: np.ndarray, b: np.ndarray, *, max_distance: int) -> tuple[np.ndarray, np.ndarray]:
    """All (i, j) with a[i] and b[j] within `max_distance` bits → two int64 arrays, sorted, each pair once.

    Of a table with itself (`a is b`) only the pairs i < j are returned.

    Small tables are compared outright. Above, the 64 bits are cut into four bands of 16: two hashes
    within d bits agree within d // 4 bits in one band at least, so only such buckets are compared.
    """
    if len(a) * len(b) <= _OUTRIGHT or max_distance > 15:
        found = [_compare(a, np.arange(len(a)), b, np.arange(len(b)), max_distance)]
    else:
        found = [_band_pairs(a, b, band, max_distance) for band in range(4)]
    if a is b:
        found = [np.sort(pair, axis=0) for pair in found]
        found = [pair[:, pair[0] < pair[1]] for pair in found]
    pairs = np.unique(np.concatenate([left * np.int64(len(b)) + right for left, right in found]))
    left, right = np.divmod(pairs, max(len(b), 1))
    return left, right


def _compare(
    a: np.ndarray, rows: np.ndarray, b: np.ndarray, columns: np.ndarray, max_distance: int
) -> tuple[np.ndarray, np.ndarray]:
    """Positions (of `rows` in a, of `columns` in b) whose hashes are near, in blocks of a few megabytes."""
    block = max(1, 2_000_000 // max(len(columns), 1))
    others = b[columns]
    found = []
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        near = np.bitwise_count(a[part, None] ^ others[None, :]) <= max_distance
        if near.any():
            i, j = np.nonzero(near)
            found.append((part[i], columns[j]))
    if not found:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    left, right = zip(*found, strict=True)
    return np.concatenate(left).astype(np.int64), np.concatenate(right).astype(np.int64)


def _band_pairs(a: np.ndarray, b: np.ndarray, band: int, max_distance: int) -> tuple[np.ndarray, np.ndarray]:
    keys = np.arange(1 << 16)
    flips = keys[np.bitwise_count(keys.astype(np.uint16)) <= max_distance // 4]
    order_a, starts_a = _buckets(a, band)
    order_b, starts_b = _buckets(b, band)
    if len(b) < _CROWDED << 16:
        return _flip_by_flip(a, order_a, starts_a, b, order_b, starts_b, flips, max_distance)
    found = [(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))]
    for key in np.flatnonzero(np.diff(starts_a)):
        near = key ^ flips
        if a is b:  # each pair of buckets once
            near = near[near >= key]
        first, last = starts_b[near], starts_b[near + 1]
        columns = order_b[_ranges(first, last)]
        if len(columns):
            rows = order_a[starts_a[key] : starts_a[key + 1]]
            found.append(_compare(a, rows, b, columns, max_distance))
    left, right = zip(*found, strict=True)
    return np.concatenate(left), np.concatenate(right)


def _flip_by_flip(
    a: np.ndarray,
    order_a: np.ndarray,
    starts_a: np.ndarray,
    b: np.ndarray,
    order_b: np.ndarray,
    starts_b: np.ndarray,
    flips: np.ndarray,
    max_distance: int,
) -> tuple[np.ndarray, np.ndarray]:
    """As the loop over buckets, for buckets of a few hashes: all of a's against b's, one flip of the key at a time."""
    sorted_a, sorted_b = a[order_a], b[order_b]
    keys = np.repeat(np.arange(1 << 16), np.diff(starts_a))  # of each of the sorted a
    left, right = [], []
    for flip in flips:
        first, last = starts_b[keys ^ flip], starts_b[(keys ^ flip) + 1]
        i = np.repeat(np.arange(len(a)), last - first)
        j = _ranges(first, last)
        near = np.bitwise_count(sorted_a[i] ^ sorted_b[j]) <= max_distance
        left.append(order_a[i[near]])
        right.append(order_b[j[near]])
    return np.concatenate(left), np.concatenate(right)


def _buckets(hashes: np.ndarray, band: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions sorted by one band's 16 bits, and where each of the 65,536 buckets starts."""
    bits = np.unpackbits(hashes.view(np.uint8).reshape(-1, 8), axis=1)
    # Every fourth bit, staggered by row: low and high frequencies in each band keep the buckets even.
    mine = bits[:, [i for i in range(64) if (i + i // 8) % 4 == band]]
    keys = np.ascontiguousarray(np.packbits(mine, axis=1)).view(np.uint16).ravel()
    order = np.argsort(keys, kind="stable")
    return order, np.searchsorted(keys[order], np.arange((1 << 16) + 1))


def _ranges(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """The numbers of all the ranges first[i]…last[i]-1, one after another."""
    lengths = last - first
    ends = np.cumsum(lengths)
    return np.arange(ends[-1]) + np.repeat(first - (ends - lengths), lengths)


def confirmed_pairs(
    left: np.ndarray, right: np.ndarray, thumbs: Thumbs, *, flipped: np.ndarray | None = None, block: int = 2000
) -> np.ndarray:
    """The second look: which pairs of positions are alike in their thumbnails → bool (P,).

    Args:
        flipped: bool (P,), where right is to be mirrored first.
    """
    flipped = np.zeros(len(left), dtype=bool) if flipped is None else flipped
    positions, inverse = np.unique(np.concatenate([left, right]), return_inverse=True)
    pictures = thumbs(positions) if len(positions) else np.empty((0, 32, 32), dtype=np.uint8)
    of_left, of_right = inverse[: len(left)], inverse[len(left) :]
    alike = np.zeros(len(left), dtype=np.float32)
    for start in range(0, len(left), block):
        part = slice(start, start + block)
        a, b = pictures[of_left[part]], pictures[of_right[part]]
        b = np.where(flipped[part, None, None], b[:, :, ::-1], b)
        alike[part] = quick_likeness(a, b)
    doubtful = np.flatnonzero((alike < MIN_CORRELATION) & (alike > _HOPELESS))
    doubtful = doubtful[np.argsort(-alike[doubtful], kind="stable")][:_MAX_ALIGNED]
    for start in range(0, len(doubtful), block):
        part = doubtful[start : start + block]
        a, b = pictures[of_left[part]], pictures[of_right[part]]
        b = np.where(flipped[part, None, None], b[:, :, ::-1], b)
        alike[part] = aligned_likeness(a, b) - _FREEDOM
    return alike >= MIN_CORRELATION


def is_blank(images: pd.DataFrame) -> np.ndarray:
    """bool (N,): pictures of one colour or nearly so; resembling one of them means nothing."""
    return (images["contrast"] < _PLAIN).to_numpy()


def feature_pairs(features: np.ndarray, *, min_cosine: float, neighbours: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (left < right) among each row's nearest neighbours whose cosine is `min_cosine` or more.

    Args:
        features: (N, D); rows that hold NaN have no neighbours.

    Raises:
        ImportError: more than 100,000 rows and no faiss.
    """
    usable = np.flatnonzero(np.isfinite(features).all(axis=1))
    unit = features[usable].astype(np.float32)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    search = _nearest_by_faiss if len(unit) > 100_000 else _nearest_exactly
    cosine, nearest = search(unit, min(neighbours + 1, len(unit)))
    rows = np.repeat(np.arange(len(unit)), nearest.shape[1])
    keep = (cosine.ravel() >= min_cosine) & (nearest.ravel() >= 0) & (nearest.ravel() != rows)
    pairs = np.unique(np.sort([rows[keep], nearest.ravel()[keep]], axis=0), axis=1)
    return usable[pairs[0]], usable[pairs[1]]


def _nearest_exactly(unit: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    cosines, nearest = [np.empty((0, k), dtype=np.float32)], [np.empty((0, k), dtype=np.int64)]
    for start in range(0, len(unit), 1024):
        similar = unit[start : start + 1024] @ unit.T
        best = np.argpartition(-similar, k - 1, axis=1)[:, :k]
        nearest.append(best)
        cosines.append(np.take_along_axis(similar, best, axis=1))
    return np.concatenate(cosines), np.concatenate(nearest)


def _nearest_by_faiss(unit: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    try:
        import faiss
    except ImportError:
        message = f"{len(unit):,} rows of features need faiss: pip install 'nsfwlib[ann]'"
        raise ImportError(message) from None
    index = faiss.index_factory(unit.shape[1], "PCA256,HNSW32,Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(unit[:: max(1, len(unit) // 50_000)])
    index.add(unit)
    _, nearest = index.search(unit, k)
    cosine = np.stack([np.einsum("nd,nd->n", unit, unit[column]) for column in nearest.T], axis=1)
    return cosine, nearest


def label_conflicts(images: pd.DataFrame) -> pd.DataFrame:
    """Rows of the images table whose group carries more than one given label, group by group.

    Adds `exact`: True where a byte-identical copy is filed under another label. The cheapest label errors to
    find: at least one label of each group is wrong, or the classes overlap there.
    """
    labelled = images[(images["problem"] == "") & (images["given_label"] != "")]
    several = labelled.groupby("group")["given_label"].transform("nunique") > 1
    exact = labelled.groupby("sha256")["given_label"].transform("nunique") > 1
    found = labelled.assign(exact=exact)[several | exact]
    return found.sort_values(["group", "sha256", "path"])


def leaks(images: pd.DataFrame) -> pd.DataFrame:
    """Near-duplicates in different splits → one row a pair.

    Columns: group, path, split, given_label, other_path, other_split, other_label, exact (byte-identical).
    """
    usable = images[(images["problem"] == "") & (images["split"] != "")]
    several = usable.groupby("group")["split"].transform("nunique") > 1
    part = usable.loc[several, ["group", "path", "split", "given_label", "sha256"]]
    pairs = part.merge(part, on="group", suffixes=("", "_other"))
    pairs = pairs[(pairs["split"] != pairs["split_other"]) & (pairs["path"] < pairs["path_other"])]
    pairs = pairs.assign(exact=pairs["sha256"] == pairs["sha256_other"])
    renamed = {"path_other": "other_path", "split_other": "other_split", "given_label_other": "other_label"}
    columns = ["group", "path", "split", "given_label", "other_path", "other_split", "other_label", "exact"]
    return pairs.rename(columns=renamed)[columns].reset_index(drop=True)


def hubs(images: pd.DataFrame, *, min_size: int = 10) -> pd.DataFrame:
    """Pictures that turn up again and again: blank pages, "image removed" placeholders, logos.

    One row a hub, largest first: kind ("blank" or "repeated"), group (-1 for the blank ones, which share no
    group), images, classes (how many given labels), path (of one member). They say nothing of their
    class: look at one, then drop them all.
    """
    usable = images[images["problem"] == ""]
    blank = pd.Series(is_blank(usable), index=usable.index)
    found = []
    for kind, part in (("blank", usable[blank].assign(group=-1)), ("repeated", usable[~blank])):
        counted = part.groupby("group").agg(
            images=("path", "size"), classes=("given_label", "nunique"), path=("path", "first")
        )
        found.append(counted[counted["images"] >= min_size].reset_index().assign(kind=kind))
    columns = ["kind", "group", "images", "classes", "path"]
    return pd.concat(found)[columns].sort_values("images", ascending=False, ignore_index=True)
