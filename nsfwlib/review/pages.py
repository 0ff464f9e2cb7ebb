"""What may be in a queue, which suspected labels stand together on a page, and which page comes first?"""

import numpy as np
import pandas as pd
from scipy.special import expit, logit

REQUIRED = ("path", "sha256", "given", "suggested", "score")  # and "about" in a disagreement: "porn / sexy"
# How uneven a page may be. Measured on digits with planted errors and on the demo: with these values a budget of one
# picture an error finds 2 points less to 2 more than the bare ranking, with an evenness of 0.8 it is 4 to 11 less.
EVENNESS = 0.95  # the share of errors expected on a page, as a part of that of its best pictures
COMPANY, ALIKE = 6, 0.75  # but so many pictures may stand together if each is so nearly as suspect as the best


def error_probability(queue: pd.DataFrame) -> np.ndarray:
    """How likely each label is wrong, roughly: float (N,) in [0, 1], rising with the score.

    A margin P(suggested) - P(given) in [-1, 1] is read as if these two classes were all, and the odds are doubled: the
    judges are regularised and doubt too much. That brings the sum to .75 … .9 times the errors there are, from .5 … .6
    times, on the demo and where labels are wrong anywhere. Any other score counts by its rank.
    Rows without a finite score get 0, so they come last.
    """
    score = queue["score"].astype(float)
    score = score.where(np.isfinite(score))
    if score.abs().max() > 1:
        return score.rank(pct=True).fillna(0).to_numpy(float)
    share = np.clip((1 + score) / 2, 1e-6, 1 - 1e-6)
    return expit(logit(share) + np.log(2)).fillna(0).to_numpy(float)


def make_pages(queue: pd.DataFrame, *, page_size: int = 24) -> list[np.ndarray]:
    """Row positions of `queue` cut into pages of one (given, suggested) pair, the page with the most to find first.

    Within a pair rows go by descending score, members of one near-duplicate `group` side by side. Pages are ordered
    by their expected share of errors, and a page ends before that share falls under `EVENNESS` of its best, or with
    `COMPANY` pictures nearly as suspect, at `page_size` at the latest. So the few glaring suspects of a rare pair
    are not buried under full pages of a common one, and each page is about equally sure.
    """
    p = error_probability(queue)
    place = pd.Series(-p, queue.index).rank(method="first")
    together = [queue[name] for name in ("given", "suggested", "group") if name in queue]
    leader = place.groupby(together, observed=True).transform("min").fillna(place)
    order = np.lexsort([place, leader])
    pages, shares = [], []
    for rows in queue.iloc[order].groupby(["given", "suggested"], observed=True).indices.values():
        rows = order[rows]
        while len(rows):
            share = np.cumsum(p[rows[:page_size]]) / np.arange(1, min(page_size, len(rows)) + 1)
            even = np.flatnonzero(share >= EVENNESS * share.max())[-1] + 1
            size = min(max(even, (p[rows[:COMPANY]] >= ALIKE * share.max()).sum()), page_size)
            pages.append(rows[:size])
            shares.append(share[size - 1])
            rows = rows[size:]
    return [pages[i] for i in np.argsort(-np.asarray(shares), kind="stable")]


def with_controls(queue: pd.DataFrame, page_size: int, every: int, seed: int) -> tuple[list[np.ndarray], list[bool]]:
    """Ranked pages with one of rows drawn at random after `every` of them, and which pages are such ones."""
    pages = make_pages(queue, page_size=page_size)
    if not every or not pages:
        return pages, [False] * len(pages)
    by_content = np.argsort(queue["sha256"].to_numpy(str), kind="stable")  # the same draw whatever the order of rows
    drawn = by_content[np.random.default_rng(seed).permutation(len(queue))[: page_size * (len(pages) // (every + 1))]]
    rest = np.setdiff1d(np.arange(len(queue)), drawn)
    ranked = [rest[page] for page in make_pages(queue.iloc[rest], page_size=page_size)]
    controls = [drawn[start : start + page_size] for start in range(0, len(drawn), page_size)]
    places = [(i // every, False) for i in range(len(ranked))] + [(i, True) for i in range(len(controls))]
    order = sorted(range(len(places)), key=places.__getitem__)  # a control page after `every` ranked ones
    return [(ranked + controls)[i] for i in order], [places[i][1] for i in order]


def check_queue(queue: pd.DataFrame, *, test_may_enter: bool) -> None:
    """A queue that cannot be reviewed is a ValueError."""
    if missing := [name for name in REQUIRED if name not in queue]:
        raise ValueError(f"queue needs the columns {list(REQUIRED)}. Missing: {missing}")
    if "split" in queue and (queue["split"] == "test").any() and not test_may_enter:
        paths = queue.loc[queue["split"] == "test", "path"]
        raise ValueError(
            f"The test split never enters this queue. Received {len(paths)} rows of it (first: {paths.iloc[0]!r}). "
            "Leave them out: queue[queue.split != 'test']."
        )
    if len(twice := queue.loc[queue["path"].duplicated(), "path"]):
        raise ValueError(f"queue should have one row a path. Received twice: {twice.iloc[0]!r}")
    if queue["sha256"].fillna("").eq("").any():
        raise ValueError("Decisions belong to content: every row of queue needs its sha256. Scan the folders again.")


def known_images(queue: pd.DataFrame, images: pd.DataFrame | None) -> pd.DataFrame:
    """Path, content, label as filed and group of every picture outside the test split; the queue's without a table."""
    known = queue.assign(given_label=queue["given"])
    if images is not None:
        labelled = (images["sha256"].fillna("") != "") & (images["given_label"].fillna("") != "")
        known = pd.concat([images[labelled & (images.get("split", "") != "test")], known])
    known = known.drop_duplicates("path").reset_index(drop=True)
    group = known.get("group", known["path"]).fillna(known["path"])
    return known[["path", "sha256", "given_label"]].assign(group=group)


def updated(rows: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """The rows with what `scores` says anew of their paths, but for content and label."""
    if missing := [name for name in ("path", "score", "suggested") if name not in scores]:
        raise ValueError(f"scores needs the columns path, score and suggested. Missing: {missing}")
    fresh = scores.drop_duplicates("path").set_index("path").drop(columns=["sha256", "given"], errors="ignore")
    table = rows.set_index("path")
    table.update(fresh)
    return table.reset_index()[list(rows)].set_axis(rows.index)
