"""What is in a table of scores? Counts above thresholds, a histogram, and what a person should look at."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from nsfwlib import runs
from nsfwlib.data import ImageProblem, blurred_thumbnail
from nsfwlib.files import file_path


def class_names(table: pd.DataFrame) -> list[str]:
    """The classes of a table of scores."""
    return [name for name in table.columns if f"{name}_max" in table.columns]


def unsafe_scores(table: pd.DataFrame, *, unsafe_classes: Sequence[str]) -> pd.Series:
    """How unsafe each file is, 0 … 1: the sum of the unsafe classes, NaN where there is a problem.

    For an animation the sum of their maxima over its frames, at most 1: one bad frame is enough.
    """
    names = class_names(table)
    unknown = [name for name in unsafe_classes if name not in names]
    if unknown or not len(unsafe_classes):
        raise ValueError(f"unsafe_classes must be some of {', '.join(names)}. Received: {list(unsafe_classes)}.")
    total = table[[f"{name}_max" for name in unsafe_classes]].sum(axis=1, skipna=False)
    return total.clip(upper=1.0).rename("score")


def chosen_thresholds(
    metrics_file: Path, *, otherwise: Sequence[float], unsafe_classes: Sequence[str], precision: str = "float32"
) -> pd.DataFrame:
    """Thresholds of the model's run, or those given: `wish`, `prevalence` (NaN if given), `threshold` and its `note`.

    Those of `metrics_file`, which notebook 04 wrote beside the model, where it is there and has any; else `otherwise`.
    A warning says where they flag other classes, and are not used, or the scores are in another `precision`.
    """
    record = runs.read_json(metrics_file) if Path(metrics_file).exists() else {}
    known, flagged = record.get("operating_points", []), record.get("unsafe_classes", unsafe_classes)
    if known and {*flagged} != {*unsafe_classes}:
        warnings.warn(f"{metrics_file} has thresholds for {[*flagged]}: not for {[*unsafe_classes]}.", stacklevel=2)
        known = []
    points = pd.DataFrame(known, columns=["wish", "prevalence", "threshold", "note"]).astype({"threshold": float})
    points = points.dropna(subset="threshold").drop_duplicates(["wish", "threshold"]).reset_index(drop=True)
    if len(points) and precision != "float32":
        warnings.warn(
            f"The thresholds were chosen on answers in float32, these are in {precision}: a promise holds where both "
            "are the same. Score with precision='float32', or choose anew.",
            stacklevel=2,
        )
    asked = {"wish": "as asked for", "prevalence": np.nan, "threshold": [float(t) for t in otherwise], "note": ""}
    return points if len(points) else pd.DataFrame(asked)


def counts_above(score: pd.Series, points: pd.DataFrame) -> pd.DataFrame:
    """`points` with the columns `flagged` (files at or above the threshold) and `share` of the files with a score."""
    scored = score.dropna().to_numpy()
    flagged = [int((scored >= threshold).sum()) for threshold in points["threshold"]]
    return points.assign(flagged=flagged, share=np.array(flagged) / max(len(scored), 1))


def thumbnails(table: pd.DataFrame, folder: Path, *, blur: float = 4.0) -> list[np.ndarray]:
    """Small, blurred, grey pictures of the rows; a white one for a file that cannot be read any more."""
    found = []
    for path in table["path"]:
        try:
            found.append(blurred_thumbnail(file_path(folder, path), blur=blur))
        except ImageProblem:
            found.append(np.full((96, 96, 3), 255, np.uint8))
    return found
