"""Which pictures are the same, or nearly? Exact copies, near-duplicate groups, leaks between splits."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from nsfwlib.data.crawl import read_thumbs
from nsfwlib.data.hash_search import affordable_distance, near_pairs, safe_distance, unique_pairs
from nsfwlib.data.images import MOST_PIXELS
from nsfwlib.data.inspection import THUMB, inspect
from nsfwlib.data.likeness import MIN_CORRELATION, MIN_DETAIL, aligned_likeness, detail_likeness, quick_likeness
from nsfwlib.files import file_path

MAX_DISTANCE = 16  # bits of 64: beyond it even the second look finds more chance than copies
_FREEDOM = 0.02  # aligned strangers correlate that much better than strangers left in place
_HOPELESS = 0.35  # correlation below which aligning two thumbnails is not tried
_BLOCK = 2000  # pairs that are compared at once
_MAX_ALIGNED = 200_000  # pairs, the likeliest first: about a millisecond each
# A large group in which few are alike is a chain of lookalikes, such as written digits: it is cut where links are weak.
_MANY, _SPARSE = 10, 0.2  # different hashes, and the share of their pairs that are alike
_STRICTER = (0.8, 0.85, 0.9, 0.95)  # likenesses in detail, in place of MIN_DETAIL
_PLAIN = 0.02  # contrast (standard deviation, 0–1) below which a picture is blank: its hash is noise
Thumbs = Callable[[np.ndarray], np.ndarray]  # positions (P,) → grey thumbnails (P, 32, 32)


def group_duplicates(
    table: pd.DataFrame,
    *,
    data_dir: Path | None = None,
    cache_dir: Path | None = None,
    features: np.ndarray | None = None,
    max_distance: int = MAX_DISTANCE,
    min_cosine: float = 0.95,
) -> pd.Series:
    """Near-duplicate groups of the images table → int64 Series "group" with its index; unusable rows get -1.

    Byte-identical files always share a group. Others are joined by perceptual hash, mirror images included, and
    confirmed by their thumbnails, which come from the scan's cache or are decoded anew; without both, the hash alone
    decides, at a distance that is safe for a table of this size.

    Args:
        data_dir, cache_dir: as given to `scan`.
        features: (N, D) bottleneck features in the table's order, NaN rows allowed. They propose pairs that no hash
            recognises (crops, captions): nearest neighbours with a cosine of `min_cosine` or more, confirmed by their
            thumbnails, too. A middle block (`mixed4`) recognises most.

    Raises:
        ValueError: features without data_dir or cache_dir, or of another length.
    """
    one_each = table[table["problem"] == ""].drop_duplicates("sha256")
    thumbs = partial(_read_thumbs, one_each, data_dir, cache_dir) if cache_dir or data_dir else None
    blank, proposed = one_each["contrast"].lt(_PLAIN).to_numpy(), None
    if features is not None:
        if thumbs is None or len(features) != len(table):
            needed = f"one row a row of the table, {len(table)}, and need data_dir or cache_dir"
            raise ValueError(f"features must have {needed}. Received: {len(features)} rows.")
        rows = np.asarray(features)[table.index.get_indexer(one_each.index)]
        proposed = feature_pairs(np.where(blank[:, None], np.nan, rows), min_cosine=min_cosine)
    hashes, mirrored = one_each["phash"].to_numpy(), one_each["phash_mirror"].to_numpy()
    options = {"max_distance": max_distance, "thumbs": thumbs, "blank": blank, "proposed": proposed}
    numbers = group_near_duplicates(hashes, mirrored=mirrored, **options)
    groups = table["sha256"].map(dict(zip(one_each["sha256"], numbers, strict=True)))
    return groups.where(table["problem"] == "", -1).astype(np.int64).rename("group")


def _read_thumbs(
    table: pd.DataFrame, data_dir: Path | None, cache_dir: Path | None, positions: np.ndarray
) -> np.ndarray:
    pixels = bytearray()
    for start in range(0, len(positions), 5000):
        part = table.iloc[positions[start : start + 5000]]
        cached = read_thumbs(cache_dir, part["sha256"]) if cache_dir is not None else {}
        for content, path in zip(part["sha256"], part["path"], strict=True):
            pixels += cached.get(content) or _decode_thumb(data_dir, path)
    return np.frombuffer(pixels, np.uint8).reshape(-1, THUMB, THUMB)


def _decode_thumb(data_dir: Path | None, path: str) -> bytes:
    if data_dir is None:
        raise ValueError(f"The thumbnail of {path} is not in the cache. Pass the cache_dir of `scan`, or data_dir.")
    row = inspect(file_path(data_dir, path), max_pixels=MOST_PIXELS, min_side=1)
    if row["problem"]:
        raise ValueError(f"{path} could be read by the scan, and now is: {row['problem']}. Scan again.")
    return row["thumb"]


def group_near_duplicates(
    hashes: np.ndarray,
    *,
    max_distance: int,
    mirrored: np.ndarray | None = None,
    thumbs: Thumbs | None = None,
    blank: np.ndarray | None = None,
    proposed: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """Connect near-duplicates → int64 (N,): group numbers 0…G-1 in order of appearance.

    Perceptual hashes percolate: one false neighbour per image glues everything together. So where only the hashes are
    known, `max_distance` is lowered as `safe_distance` says. With `thumbs`, every pair needs a second look at the
    pictures, and `max_distance` is lowered only to bound the work; chains of lookalikes are cut.

    Args:
        hashes, mirrored: uint64 (N,), perceptual hashes of the pictures and of their mirror images.
        max_distance: Hamming distance in bits, 0…64.
        thumbs: positions (P,) → uint8 (P, 32, 32), the pictures' grey thumbnails.
        blank: bool (N,), pictures without content; they are joined with nothing.
        proposed: further pairs of positions, that `thumbs` are to confirm.

    Raises:
        ValueError: `max_distance` outside 0…64, or arrays of different lengths.
    """
    if not 0 <= max_distance <= 64:
        raise ValueError(f"max_distance must be 0…64 bits. Received: {max_distance}")
    if mirrored is not None and mirrored.shape != hashes.shape:
        raise ValueError(f"mirrored must have the shape of hashes, {hashes.shape}. Received: {mirrored.shape}")
    values, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    if thumbs is None:
        distance = safe_distance(values, max_distance=max_distance, tries=1 if mirrored is None else 2)
    else:
        distance = affordable_distance(values, max_distance)
    left, right = near_pairs(values, values, max_distance=distance)
    same = [(first[inverse], np.arange(len(hashes)))]  # equal hashes: each with the first
    same += [(first[left], first[right]), *([proposed] if proposed else [])]
    turned = np.empty((2, 0), np.int64)
    if mirrored is not None:
        pairs = np.sort(near_pairs(values, mirrored[first], max_distance=distance), axis=0)
        turned = first[np.stack(unique_pairs(pairs, len(values)))]
    left, right = np.concatenate([*same, turned], axis=1)
    flipped, keep = np.arange(len(left)) >= len(left) - turned.shape[1], left != right
    if blank is not None:
        keep &= ~(blank[left] | blank[right])
    left, right, flipped = left[keep], right[keep], flipped[keep]
    if thumbs is None:
        return joined_pairs(left, right, len(hashes))
    detail = pair_likeness(left, right, thumbs, flipped)
    kept, apart = detail >= MIN_DETAIL, hashes[left] != hashes[right]
    for stricter in _STRICTER:
        groups = joined_pairs(left[kept], right[kept], len(hashes))
        linked, _ = unique_pairs(np.sort([left[kept & apart], right[kept & apart]], axis=0), len(hashes))
        size, links = (np.bincount(groups[rows], minlength=groups.max(initial=-1) + 1) for rows in (first, linked))
        chain = (size > _MANY) & (links < _SPARSE * size * (size - 1) / 2)
        if not chain.any():
            break
        kept &= ~chain[groups[left]] | ~apart | (detail >= stricter)
    return joined_pairs(left[kept], right[kept], len(hashes))


def joined_pairs(left: np.ndarray, right: np.ndarray, n: int) -> np.ndarray:
    """Connected components of the pairs (left[i], right[i]) → int64 (n,), numbered in order of appearance."""
    graph = coo_array((np.ones(len(left), dtype=bool), (left, right)), shape=(n, n))
    _, labels = connected_components(graph, directed=False)
    return pd.factorize(labels)[0].astype(np.int64)


def pair_likeness(left: np.ndarray, right: np.ndarray, thumbs: Thumbs, flipped: np.ndarray) -> np.ndarray:
    """The second look: how alike pairs of positions are in detail → float32 (P,), copies from `MIN_DETAIL` on.

    0 where they are not alike as a whole. `flipped`, bool (P,), says where right is to be mirrored first.
    """
    positions, inverse = np.unique(np.concatenate([left, right]), return_inverse=True)
    pictures = thumbs(positions) if len(positions) else np.empty((0, 32, 32), dtype=np.uint8)
    of_left, of_right = inverse[: len(left)], inverse[len(left) :]
    alike = np.zeros(len(left), dtype=np.float32)

    def compare(pairs: np.ndarray, likeness: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
        for start in range(0, len(pairs), _BLOCK):
            part = pairs[start : start + _BLOCK]
            a, b = pictures[of_left[part]], pictures[of_right[part]]
            alike[part] = likeness(a, np.where(flipped[part, None, None], b[:, :, ::-1], b))

    compare(np.arange(len(left)), quick_likeness)
    doubtful = np.flatnonzero((alike < MIN_CORRELATION) & (alike > _HOPELESS))
    doubtful = doubtful[np.argsort(-alike[doubtful], kind="stable")][:_MAX_ALIGNED]
    compare(doubtful, aligned_likeness)
    alike[doubtful] -= _FREEDOM
    likely = alike >= MIN_CORRELATION
    compare(np.flatnonzero(likely), detail_likeness)
    return np.where(likely, alike, 0)


def feature_pairs(features: np.ndarray, *, min_cosine: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (left < right) among the ten nearest neighbours of (N, D) features whose cosine is `min_cosine` or more.

    Rows that hold NaN have no neighbours.
    """
    import faiss  # a large library, for this alone

    usable = np.flatnonzero(np.isfinite(features).all(axis=1))
    if not len(usable):
        return usable, usable
    unit = features[usable].astype(np.float32)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    kind = "PCA256,HNSW32,Flat" if len(unit) > 100_000 else "Flat"
    index = faiss.index_factory(unit.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
    index.train(unit[:: max(1, len(unit) // 50_000)])
    index.add(unit)
    nearest = index.search(unit, min(11, len(unit)))[1]
    cosine = np.stack([np.einsum("nd,nd->n", unit, unit[column]) for column in nearest.T], axis=1)
    rows = np.repeat(np.arange(len(unit)), nearest.shape[1])
    keep = (cosine.ravel() >= min_cosine) & (nearest.ravel() >= 0) & (nearest.ravel() != rows)
    left, right = unique_pairs(np.sort([rows[keep], nearest.ravel()[keep]], axis=0), len(unit))
    return usable[left], usable[right]


def label_conflicts(images: pd.DataFrame) -> pd.DataFrame:
    """Rows of the images table whose group carries more than one given label, group by group.

    Adds `exact`: True where a byte-identical copy is filed under another label. The cheapest label errors to find: at
    least one label of each group is wrong, or the classes overlap there.
    """
    labelled = images[(images["problem"] == "") & (images["given_label"] != "")]
    several, exact = (labelled.groupby(by)["given_label"].transform("nunique") > 1 for by in ("group", "sha256"))
    return labelled.assign(exact=exact)[several | exact].sort_values(["group", "sha256", "path"])


def leaks(images: pd.DataFrame) -> pd.DataFrame:
    """Near-duplicates in different splits → one row a pair.

    Columns: group, path, split, given_label, other_path, other_split, other_label, exact (byte-identical).
    """
    usable = images[(images["problem"] == "") & (images["split"] != "")]
    several = usable.groupby("group")["split"].transform("nunique") > 1
    one = usable.loc[several, ["group", "path", "split", "given_label", "sha256"]]
    other = one.rename(columns={name: f"other_{name.removeprefix('given_')}" for name in one.columns[1:]})
    pairs = one.merge(other, on="group")
    pairs = pairs[(pairs["split"] != pairs["other_split"]) & (pairs["path"] < pairs["other_path"])]
    pairs = pairs.assign(exact=pairs["sha256"] == pairs["other_sha256"])
    return pairs.drop(columns=["sha256", "other_sha256"]).reset_index(drop=True)


def hubs(images: pd.DataFrame) -> pd.DataFrame:
    """Pictures that turn up ten times or more: blank pages, "image removed" placeholders, logos.

    One row a hub, largest first: kind ("blank" or "repeated"), group (-1 for the blank ones, which share no group),
    images, classes (how many given labels), path (of one member). They say nothing of their class: look at one, then
    drop them all.
    """
    usable = images[images["problem"] == ""]
    blank = usable["contrast"] < _PLAIN
    usable = usable.assign(kind=np.where(blank, "blank", "repeated"), group=usable["group"].mask(blank, -1))
    what = {"images": ("path", "size"), "classes": ("given_label", "nunique"), "path": ("path", "first")}
    found = usable.groupby(["kind", "group"], as_index=False).agg(**what)
    return found[found["images"] >= 10].sort_values("images", ascending=False, ignore_index=True)
