"""What will it cost to run? A week of the review queue, and a rule over the frames of a clip."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

MINUTES = 60


def review_week(
    uploads: Sequence[float],
    reviewers: Sequence[int],
    *,
    to_person: float,
    seconds: float,
    unsafe: float = 0.0,
    seed: int = 0,
) -> pd.DataFrame:
    """A week of the review queue, first come first served, minute by minute; one row an hour.

    Args:
        uploads: (H,) expected uploads in each hour; those that a person is to see arrive at random (Poisson).
        reviewers: (H,) people at work in each hour.
        to_person: share of the uploads that a person sees.
        seconds: that a picture takes, such as the journal has them.
        unsafe: share of what people see that is unsafe.
        seed: of the arrivals.

    Returns:
        `arrived`, `reviewed`, `backlog` at the hour's end, `waiting`, the mean minutes until those that arrived were
        seen (infinite where that is not within these hours), `exposure`, minutes that people look at unsafe ones.
    """
    if len(uploads) != len(reviewers) or not 0 <= to_person <= 1 or seconds <= 0:
        raise ValueError(
            f"Expected uploads and reviewers of the same hours, to_person in [0, 1], seconds above 0. Received: "
            f"{len(uploads)} and {len(reviewers)} hours, {to_person}, {seconds}."
        )
    rng, staff = np.random.default_rng(seed), np.repeat(np.asarray(reviewers, float), MINUTES)
    arrived = rng.poisson(np.repeat(np.asarray(uploads, float) / MINUTES * to_person, MINUTES))
    surplus = np.cumsum(arrived - staff * 60 / seconds)
    backlog = surplus - np.minimum(np.minimum.accumulate(surplus), 0)  # Lindley's recursion
    came = np.cumsum(arrived)
    seen = came - backlog
    wait = np.searchsorted(np.maximum.accumulate(seen), came - 1e-9) - np.arange(len(came)).astype(float)
    wait[wait + np.arange(len(came)) >= len(came)] = np.inf
    hour = np.arange(len(came)) // MINUTES
    done = np.bincount(hour, np.diff(seen, prepend=0))
    count = np.bincount(hour, arrived)
    with np.errstate(invalid="ignore"):
        waiting = np.bincount(hour, np.where(arrived > 0, wait * arrived, 0)) / np.where(count > 0, count, np.nan)
    return pd.DataFrame(
        {"arrived": count, "reviewed": done, "backlog": backlog[MINUTES - 1 :: MINUTES], "waiting": waiting}
    ).assign(exposure=done * seconds / 60 * unsafe)


def clip_scores(frames: pd.DataFrame, k: int) -> pd.Series:
    """Of each `clip` the k-th highest `score` of its frames: at or above t where k frames are; 0 where it has fewer."""
    ranked = frames.sort_values("score", ascending=False)
    kth = ranked[ranked.groupby("clip").cumcount().eq(k - 1)].set_index("clip")["score"]
    return kth.reindex(frames["clip"].unique()).fillna(0.0)
