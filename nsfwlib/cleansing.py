"""How do labels, features and decisions come together? The few steps that notebook 03 and its grid share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from nsfwlib import dataset, labels
from nsfwlib.journal import decisions as decisions_in_force
from nsfwlib.review import ReviewSession


def judge_labels(
    table: pd.DataFrame, features: Mapping[str, np.ndarray], journal: Path, *, class_names: Sequence[str], seed: int = 0
) -> tuple[pd.DataFrame, np.ndarray]:
    """Suspect labels of the images table as it stands: decisions applied, confirmed rows trusted.

    Labels of `test` judge nothing, corrected or not: its rows are judged by the others, as an audit needs it.

    Args:
        table: the images table with `path`, `sha256`, `given_label`, `split`, `group`; usable rows.
        features: block → (N, D) features of a network never trained on these labels.
        journal: the decisions journal; a missing file is an empty one.
        class_names: the K classes in order.
        seed: of folds and ties.

    Returns:
        The label issues beside `path`, `sha256`, `split`, `group`, in the order of `table`, most columns as from
        `labels.find_label_issues`; and out-of-sample probabilities (N, K).
    """
    current = dataset.current_labels(table, journal)
    decided = decisions_in_force(journal)
    firm = decided.loc[decided["decision"].isin(["keep", *class_names]), "sha256"]
    options = {"classes": list(class_names), "groups": table["group"], "seed": seed}
    trusted, is_test = table["sha256"].isin(firm).to_numpy(), table["split"].eq("test").to_numpy()
    judging = current.mask(is_test)
    pred_probs = labels.out_of_sample_probs(judging, features, trusted=trusted & ~is_test, **options)
    issues = labels.find_label_issues(current, pred_probs, trusted=trusted, **options)
    return pd.concat([table[["path", "sha256", "split", "group"]], issues], axis=1), pred_probs


def review_queue(issues: pd.DataFrame) -> pd.DataFrame:
    """The rows that a person may be asked about: not of `test`, with a label or a suggestion to judge.

    Unlabelled pictures come by predicted class; they count as suspects, for every one of them needs a label.
    """
    queue = issues[issues["split"].ne("test") & issues["suggested"].ne("")]
    return queue.assign(score=queue["score"].fillna(1.0))


def what_changed(before: pd.Series, after: pd.Series) -> pd.DataFrame:
    """Numbers of pictures by label before (rows) and after (columns) review, changed ones only."""
    names = "(left out)"
    was, now = before.fillna(names), after.fillna(names)
    changed = was.ne(now)
    return pd.crosstab(was[changed], now[changed], rownames=["was"], colnames=["is"])


def estimated_errors(current: pd.Series, pred_probs: np.ndarray, *, class_names: Sequence[str]) -> float:
    """How many labels are wrong, as the confident joint has it: its sum off the diagonal."""
    joint = labels.noise_matrix(current, pred_probs, classes=list(class_names)).to_numpy()
    return float(joint.sum() - np.trace(joint))


def what_review_cost(session: ReviewSession, *, estimated: float) -> pd.Series:
    """Work done and what it found: pictures, errors found, errors estimated left, minutes, errors a minute.

    `estimated` is the number of errors in the queue before review, as from `estimated_errors`.
    """
    progress = session.progress()
    minutes, found = progress["seconds"] / 60, progress["errors_found"]
    return pd.Series(
        {
            "pictures decided": progress["decided"],
            "errors found": found,
            "errors estimated left": max(0, round(estimated - found)),
            "minutes": round(minutes, 1),
            "errors found a minute": round(found / minutes, 1) if minutes else float("nan"),
        }
    )
