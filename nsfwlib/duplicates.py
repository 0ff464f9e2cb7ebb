"""Which pictures are the same, or nearly? Exact copies, near-duplicate groups, leaks between splits."""

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def group_near_duplicates(
    hashes: np.ndarray, *, mirrored: np.ndarray | None = None, max_distance: int = 4
) -> np.ndarray:
    """Connect hashes within `max_distance` bits → int64 (N,): group numbers 0…G-1 in order of appearance.

    Args:
        hashes: uint64 (N,) perceptual hashes.
        mirrored: uint64 (N,) hashes of the mirror images; matches between a picture and a mirror image count.
        max_distance: Hamming distance in bits, 0…64.
    """
    hashes = np.asarray(hashes, dtype=np.uint64)
    left, right = _near_pairs(hashes, hashes, max_distance)
    if mirrored is not None:
        more_left, more_right = _near_pairs(hashes, np.asarray(mirrored, dtype=np.uint64), max_distance)
        left, right = np.concatenate([left, more_left]), np.concatenate([right, more_right])
    return components(left, right, len(hashes))


def components(left: np.ndarray, right: np.ndarray, n: int) -> np.ndarray:
    """Connected components of pairs (left[i], right[i]) → int64 (n,), numbered in order of appearance."""
    graph = coo_array((np.ones(len(left), dtype=bool), (left, right)), shape=(n, n))
    _, labels = connected_components(graph, directed=False)
    return pd.factorize(labels)[0]


def _near_pairs(a: np.ndarray, b: np.ndarray, max_distance: int) -> tuple[np.ndarray, np.ndarray]:
    found = [np.empty((2, 0), dtype=np.int64)]
    for start in range(0, len(a), 256):
        distance = np.bitwise_count(a[start : start + 256, None] ^ b[None, :])
        rows, columns = np.nonzero(distance <= max_distance)
        found.append(np.stack([rows + start, columns]))
    left, right = np.concatenate(found, axis=1)
    keep = left < right
    return left[keep], right[keep]


def label_conflicts(images: pd.DataFrame) -> pd.DataFrame:
    """Rows of the images table whose group carries more than one given label, group by group.

    Adds `exact`: True where a byte-identical copy (sha256) is filed under another label.
    """
    labelled = images[(images["problem"] == "") & (images["given_label"] != "")]
    several = labelled.groupby("group")["given_label"].transform("nunique") > 1
    exact = labelled.groupby("sha256")["given_label"].transform("nunique") > 1
    found = labelled.assign(exact=exact)[several | exact]
    return found.sort_values(["group", "sha256", "path"])


def leaks(images: pd.DataFrame) -> pd.DataFrame:
    """Groups that lie in more than one split → one row a pair of (split, other split) members.

    Columns: group, path, split, given_label, other_path, other_split, other_label, exact.
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
