"""What does an audited sample say of all pictures that it stands for? Accuracy, label errors, confusions, scores."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from nsfwlib.evaluate.confusion import class_codes
from nsfwlib.evaluate.metrics import mean_scores
from nsfwlib.evaluate.weigh import weigh, without_slips
from nsfwlib.labels import group_codes

JUDGE = r"^P\("  # columns of an audit that hold the judge's probabilities of the classes, "P(<class>)"


def audited_share(
    outcome: Sequence[float],
    audit: pd.DataFrame,
    *,
    expected: np.ndarray,
    among: Sequence[bool] | None = None,
    agreed: tuple[float, float, int] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Share of rows with an outcome, from the answered rows of an audit.

    Only picked rows count: anything looked at besides would bias the sample. Rows without an answer that came before
    an answered one of their stratum were unsure, escalated or hidden. They are hardly a random part, so the interval,
    which leaves them out, comes with one that holds whatever they are. All intervals are of 95 %, and about images like
    these, not only these.

    Args:
        outcome: (N,) 1 or 0 where known, NaN where not.
        audit: as from `draw_audit`, in the same order; with a column `group` near-duplicates count as what they are.
        expected: (N,) probability of the outcome, as the judge has it.
        among: (N,) rows that the share is about, by something known of all rows, such as their predicted label.
        agreed: how many second looks agreed, of how many, and the number of classes: see `without_slips`.
        seed: of its draws.

    Returns:
        `value`, `low`, `high`; `worst_low` and `worst_high`, whatever the unsure rows are; `audited` and `images`
        (rows), `note`, a sentence where the audit is incomplete.
    """
    y = np.asarray(outcome, dtype=float)
    if len(y) != len(audit):
        raise ValueError(f"Expected one outcome a row of the audit: {len(audit)}. Received: {len(y)}.")
    among = np.ones(len(y), bool) if among is None else np.asarray(among, dtype=bool)
    due = audit["picked"].to_numpy(bool) & among
    y = np.where(due, y, np.nan)
    reached = audit["order"].where(np.isfinite(y)).groupby(audit["stratum"]).transform("max").ge(audit["order"])
    unsure = due & reached.to_numpy() & np.isnan(y)
    stratum, members = audit["stratum"].to_numpy()[among], group_codes(audit.get("group"), len(y))[among]

    def bounds(values: np.ndarray) -> tuple[float, float, float]:
        found = weigh(values[among, None], stratum, expected=expected[among, None], groups=members, seed=seed)
        found = found if agreed is None else without_slips(found, *agreed, seed=seed)
        return float(found.value[0]), *(float(end[0]) for end in found.interval())

    value, low, high = bounds(y)
    worst = (bounds(np.where(unsure, 0.0, y))[1], bounds(np.where(unsure, 1.0, y))[2]) if unsure.any() else (low, high)
    waiting = int((due & np.isnan(y) & ~unsure).sum())
    blind = sorted(set(stratum) - set(stratum[np.isfinite(y[among])]))
    notes = [f"{waiting:,} picked images have no verdict yet."] if waiting else []
    if unsure.any():
        span = f"{worst[0]:.1%} to {worst[1]:.1%}"
        notes.append(f"{unsure.sum():,} were unsure, escalated or hidden: whatever they are, it is {span}.")
    notes += [f"No image was audited in: {', '.join(blind)}. Answer more, or raise audit_sizes."] if blind else []
    return {
        "value": np.nan if blind or not among.any() else value, "low": low, "high": high, "worst_low": worst[0],
        "worst_high": worst[1], "audited": int(np.isfinite(y).sum()), "images": int(among.sum()),
        "note": " ".join(notes),
    }  # fmt: skip


def audited_accuracy(
    truth: Sequence[str | None],
    predicted: Sequence[str],
    audit: pd.DataFrame,
    *,
    agreed: tuple[float, float, int] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Accuracy against the truth, from an audited sample of noisily labelled rows; all else as in `audited_share`.

    Args:
        truth: (N,) class that a reviewer gave; None or NaN where nobody looked or could tell. Anything that is no
            class, such as "drop", is a verdict, too: no prediction is right there.
        predicted: (N,) predicted labels.
        audit: as from `draw_audit`, in the same order.
        agreed: as there.
        seed: as there.
    """
    return audited_share(_same(truth, predicted), audit, expected=judged(audit, predicted), agreed=agreed, seed=seed)


def audited_confusion(
    truth: Sequence[str | None],
    predicted: Sequence[str],
    audit: pd.DataFrame,
    *,
    class_names: Sequence[str],
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Estimated confusion matrix against the truth: (K, K) numbers of images, and (K, K, 2) intervals of row shares.

    Images whose truth is no class are not in it: the sum is the estimated number of those that have one. Without the
    judge: fitted to the one or two answers of a rare cell it would be believed too much. Arguments as in
    `audited_accuracy`.
    """
    k, known = len(class_names), _answered(truth, audit)
    columns = class_codes(predicted, class_names, "predictions")
    is_true = _one_hot(truth, class_names)
    cells = is_true[:, :, None] * np.eye(k)[columns][:, None, :]
    rows = {"outcome": cells.reshape(-1, k * k), "per": np.repeat(is_true, k, axis=1)}
    rows = {name: np.where(known[:, None], values, np.nan) for name, values in rows.items()}
    stratum, cell = audit["stratum"], audit["stratum"] + " " + np.asarray(predicted, dtype=object)
    empty = ~pd.Series(known, audit.index).groupby(cell).transform("any")
    strata = cell.mask(empty.groupby(stratum).transform("any"), stratum)  # by prediction, too, where all were looked at
    found = weigh(**rows, strata=strata.to_numpy(), groups=audit.get("group"), seed=seed)
    matrix = len(known) * np.clip(found.mean, 0, None).reshape(k, k)
    return matrix, np.stack(found.interval(), axis=-1).reshape(k, k, 2)


def audited_scores(
    truth: Sequence[str | None],
    pred_probs: np.ndarray,
    audit: pd.DataFrame,
    *,
    class_names: Sequence[str],
    seed: int = 0,
) -> pd.DataFrame:
    """Scores against the truth, from an audited sample: `score`, `value`, `low`, `high`.

    Accuracy, balanced accuracy and macro F1 (of the classes seen), Brier score and log-loss (of rows whose truth is a
    class). `pred_probs` (N, K) are the model's; other arguments as in `audited_accuracy`.
    """
    probs, known = np.asarray(pred_probs, float), _answered(truth, audit)[:, None]
    judge, names = audit.filter(regex=JUDGE).to_numpy(float), np.asarray(class_names, object)
    accuracy = audited_accuracy(truth, names[probs.argmax(axis=1)], audit, seed=seed)
    options = {"strata": audit["stratum"].to_numpy(), "groups": audit.get("group"), "seed": seed}
    others = mean_scores(np.where(known, _one_hot(truth, class_names), np.nan), probs, judge=judge, **options)
    return pd.concat([pd.DataFrame([{"score": "accuracy"} | accuracy])[list(others)], others], ignore_index=True)


def judged(audit: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
    """(N,) how likely each row is of the class named, as the judge has it that is frozen with the audit."""
    probs = audit.filter(regex=JUDGE)
    codes = probs.columns.get_indexer([f"P({name})" for name in names])
    return np.where(codes < 0, 0.0, probs.to_numpy(float)[np.arange(len(probs)), codes])


def _answered(truth: Sequence[str | None], audit: pd.DataFrame) -> np.ndarray:
    return audit["picked"].to_numpy(bool) & ~pd.isna(np.asarray(truth, dtype=object))


def _one_hot(truth: Sequence[str | None], class_names: Sequence[str]) -> np.ndarray:
    """(N, K) 1 where the truth is this class; rows of 0 where it is none or unknown."""
    return (np.asarray(truth, dtype=object)[:, None] == np.asarray(class_names, dtype=object)).astype(float)


def _same(truth: Sequence[str | None], labels: Sequence[str]) -> np.ndarray:
    """1.0 where both agree, 0.0 where not, NaN where the truth is unknown."""
    truth = np.asarray(truth, dtype=object)
    return np.where(pd.isna(truth), np.nan, (truth == np.asarray(labels, dtype=object)).astype(float))
