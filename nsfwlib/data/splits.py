"""Who trains and who is examined? Train, val and test by whole near-duplicate groups, stable over rounds."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd

from nsfwlib.data.duplicates import leaks

SPLITS = ("train", "val", "test")
SHARES = (0.7, 0.15, 0.15)  # of them, where nobody says others
SET_ASIDE = "set aside: resembles a picture of a later split"
_WITHOUT = {
    "train": "nothing can be trained on it",
    "val": "nothing can be chosen on it, and training needs it",
    "test": "val, on which the model is chosen, has to measure it alone",
}


def assign_splits(
    table: pd.DataFrame, *, previous: pd.DataFrame | None = None, fractions: Sequence[float] = SHARES, seed: int = 0
) -> pd.DataFrame:
    """Fill `split` with train, val and test: whole groups, stratified by class and size → a new table.

    A group of any size reaches each split with its share's probability; a class of few groups is in all splits first.
    The draw depends on the seed and the contents alone, not on the order of rows. Rows with a problem get "".
    Unlabelled pictures go to train, where a person may label them. Splits that the folders gave are kept, leaks
    included (see `data.leaks`); where they know no val, it is drawn from train. `attrs["warnings"]` says what was done.

    Args:
        table: as `scan` returns it, its `group` filled.
        previous: an earlier result; its splits persist and newcomers join their group's. Where a group now spans
            several, those before the last of train, val, test are set aside: split "", and a word in `oddities`.
        fractions: of train, val and test; they add up to 1.

    Raises:
        ValueError: wrong fractions, or usable rows without a group.
    """
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"fractions must be three shares that add up to 1. Received: {tuple(fractions)}")
    usable = table["problem"] == ""
    if (table.loc[usable, "group"] < 0).any():
        raise ValueError('Usable rows without a group. Run table["group"] = group_duplicates(table) first.')
    result = table.assign(split=table["split"].where(usable, ""))
    if from_folders := bool((result["split"] != "").any()):
        notes = _complete_folder_splits(result, fractions, seed)
    else:
        earlier = result.iloc[:0] if previous is None else previous[previous["problem"] == ""]
        earlier = earlier.drop_duplicates("sha256").set_index("sha256")["split"]
        kept = result["sha256"].where(usable).map(earlier).astype(object)  # "" where set aside, NA for newcomers
        notes = _set_bridges_aside(result, kept)
        _draw(result, fractions, seed, known=kept)
    notes += _what_is_missing(result, from_folders)
    noted = [{"name": name, "message": message} for name, message in notes]
    result.attrs["warnings"] = table.attrs.get("warnings", []) + noted
    return result


def _what_is_missing(result: pd.DataFrame, from_folders: bool) -> list[tuple[str, str]]:
    """A note for each split that has no picture at all, or none of some class."""
    labelled = result[(result["problem"] == "") & (result["given_label"] != "")]
    counts = pd.crosstab(labelled["given_label"], labelled["split"]).reindex(columns=list(SPLITS), fill_value=0)
    if from_folders:
        whose, way_out = "The folders have", "Add it, or put the class folders on top to have splits drawn."
    else:
        whose = "The pictures are too few: there is"
        way_out = "Add pictures: a class needs three that are no near-duplicates to be in all splits."
    notes = []
    for split, count in counts.items():
        lacking = ", ".join(map(repr, counts.index[count == 0]))
        if not count.any():
            notes.append((f"no {split} split", f"{whose} no {split!r}: {_WITHOUT[split]}. {way_out}"))
        elif lacking:
            notes.append((f"classes without {split}", f"{split} has no picture of {lacking}. {way_out}"))
    return notes


def _complete_folder_splits(result: pd.DataFrame, fractions: Sequence[float], seed: int) -> list[tuple[str, str]]:
    """Draw val from train where the folders know no val; name what leaks."""
    notes = []
    present = set(result["split"]) - {""}
    if "train" in present and "val" not in present:
        leaking = result.loc[result["split"] == "test", "group"]
        free = (result["split"] == "train") & ~result["group"].isin(leaking)
        share = fractions[1] / max(fractions[0] + fractions[1], 1e-12)
        drawn = result[free].assign(split="")
        _draw(drawn, (1 - share, share, 0.0), seed)
        result.loc[drawn.index, "split"] = drawn["split"]
        notes.append(("val drawn from train", f"The folders have no val: {share:.0%} of train."))
    if pairs := len(leaks(result)):
        said = f"{pairs} pairs of near-duplicates lie in different splits; see data.leaks."
        notes.append(("leaks between splits", said))
    return notes


def _set_bridges_aside(result: pd.DataFrame, kept: pd.Series) -> list[tuple[str, str]]:
    """Fill `split` for old rows and for newcomers to their groups. Returns a warning if groups grew together."""
    rank = kept.map({split: i for i, split in enumerate(SPLITS)}).astype(float)
    usable = result["problem"] == ""
    latest = rank[usable].groupby(result.loc[usable, "group"]).transform("max")
    bridged = rank.reindex(latest.index) < latest
    joined = latest.dropna().astype(int).map(dict(enumerate(SPLITS)))
    result.loc[joined.index, "split"] = joined
    aside = bridged.index[bridged].union(kept.index[kept == ""])
    result.loc[aside, "split"] = ""
    fresh = aside[~result.loc[aside, "oddities"].str.contains(SET_ASIDE, regex=False)]
    flags = result.loc[fresh, "oddities"]
    result.loc[fresh, "oddities"] = (flags + "; ").where(flags != "", "") + SET_ASIDE
    listed = ", ".join(result.loc[bridged.index[bridged], "path"].head(5))
    said = f"{bridged.sum()} pictures turned out to resemble pictures of a later split and are set aside: {listed}"
    return [("bridges between splits", said)] if listed else []


def _draw(rows: pd.DataFrame, fractions: Sequence[float], seed: int, *, known: pd.Series | None = None) -> None:
    """Fill `split` where it is "" and the row is usable and new, a whole group at a time."""
    new = (rows["problem"] == "") & (rows["split"] == "") & (known is None or known.isna())
    votes = rows[new].groupby(["group", "given_label"]).size().sort_values(ascending=False, kind="stable")
    labels = votes.reset_index().drop_duplicates("group").set_index("group")["given_label"]
    groups = rows[new].groupby("group")["sha256"].agg(["min", "size"])
    groups["lot"] = [lot(seed, content) for content in groups["min"]]
    counts = rows[(rows["problem"] == "") & (rows["split"] != "")].groupby(["given_label", "split"]).size()
    picks = pd.Series(SPLITS[0], index=groups.index)  # unlabelled ones stay there: test is never reviewed
    for label, members in groups.groupby(labels.reindex(groups.index)):
        members = members.sort_values(["size", "lot"])
        if label:
            held = [int(counts.get((label, split), 0)) for split in SPLITS]
            starts = [lot(seed, split, label, members["min"].min()) for split in SPLITS]
            picks[members.index] = np.array(SPLITS)[_deal(members["lot"].to_numpy(), fractions, starts, held)]
    rows.loc[new, "split"] = rows.loc[new, "group"].map(picks)


def lot(*key: object) -> float:
    """A number from 0 to 1 that depends on the key alone."""
    return int.from_bytes(hashlib.sha256(" ".join(map(str, key)).encode()).digest()[:8]) / 2**64


def _deal(lots: np.ndarray, fractions: Sequence[float], starts: Sequence[float], held: Sequence[int]) -> np.ndarray:
    """Splits (0, 1, 2) of a class' groups, which come in order of size.

    Systematic sampling (Madow and Madow 1944): each group reaches a split with the wished probability, and among groups
    of about the same size each split gets its share to within one group. `starts`, 0–1, are of the splits; `held` are
    the pictures of this class that each has already; `lots`, 0–1, say who moves to a split that is left empty.
    """
    picks = np.zeros(len(lots), dtype=int)
    for split in (2, 1):
        free = np.flatnonzero(picks == 0)
        share = fractions[split] / max(1 - sum(fractions[split + 1 :]), 1e-12)
        passed = np.floor(starts[split] + share * np.arange(len(free) + 1))
        picks[free[np.diff(passed) > 0]] = split
    for split in range(3):
        if fractions[split] and not held[split] and split not in picks:
            sizes = np.bincount(picks, minlength=3) + np.asarray(held)
            spare = np.flatnonzero((sizes[picks] > 1) | (picks > split))
            picks[spare[np.argsort(lots[spare])][:1]] = split
    return picks
