"""What is in a table of scores? Counts above thresholds, a histogram, and what a person should look at."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from nsfwlib import dataset, images, look, runs

# Safe photographs and drawings, package by package; those of a package that is not installed are left out.
SHIPPED = {
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
    "skimage": (
        *(f"data/{name}.png" for name in ("astronaut", "camera", "chelsea", "coffee", "coins", "grass", "gravel")),
        *(f"data/{name}.png" for name in ("brick", "clock_motion", "horse", "logo", "moon", "motorcycle_left")),
        *(f"data/{name}" for name in ("hubble_deep_field.jpg", "no_time_for_that_tiny.gif", "rocket.jpg", "text.png")),
    ),
    "matplotlib": (
        *(
            f"mpl-data/sample_data/{name}"
            for name in ("grace_hopper.jpg", "logo2.png", "Minduka_Present_Blue_Pack.png")
        ),
        *(f"mpl-data/images/{name}_large.png" for name in ("back", "filesave", "help", "home", "matplotlib", "move")),
    ),
}


def shipped_pictures(folder: Path) -> Path:
    """Copy the safe pictures that installed packages ship to `<folder>/<package>/`, and return `folder`."""
    for package, names in SHIPPED.items():
        found = importlib.util.find_spec(package)
        for name in names if found is not None else ():
            source, target = Path(found.origin).parent / name, folder / package / Path(name).name
            if source.exists() and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)
    return folder


def class_names(table: pd.DataFrame) -> list[str]:
    """The classes of a table of scores."""
    return [name for name in table.columns if f"{name}_max" in table.columns]


def unsafe_scores(table: pd.DataFrame, *, unsafe_classes: Sequence[str]) -> pd.Series:
    """How unsafe each file is, 0 … 1: the sum of the unsafe classes, NaN where there is a problem.

    For an animation the sum of their maxima over its frames, at most 1: one bad frame is enough.

    Raises:
        ValueError: a class that the table does not have.
    """
    names = class_names(table)
    unknown = [name for name in unsafe_classes if name not in names]
    if unknown or not len(unsafe_classes):
        raise ValueError(f"unsafe_classes must be some of {', '.join(names)}. Received: {list(unsafe_classes)}.")
    total = table[[f"{name}_max" for name in unsafe_classes]].sum(axis=1, skipna=False)
    return total.clip(upper=1.0).rename("score")


def operating_points(metrics_file: Path, *, otherwise: Sequence[float]) -> pd.DataFrame:
    """Thresholds of the model's run, or those given: columns `wish`, `prevalence` (NaN if given), `threshold`.

    Args:
        metrics_file: what notebook 04 wrote beside the model; it need not exist.
        otherwise: thresholds to look at where there is no such file, or no threshold in it.
    """
    points = pd.DataFrame()
    if Path(metrics_file).exists():
        points = pd.DataFrame(runs.read_json(metrics_file).get("operating_points", []))
    if len(points):
        points = points[["wish", "prevalence", "threshold"]].astype({"threshold": float})
        points = points.dropna(subset="threshold").drop_duplicates(["wish", "threshold"]).reset_index(drop=True)
    if not len(points):
        points = pd.DataFrame(
            {"wish": "as asked for", "prevalence": np.nan, "threshold": [float(t) for t in otherwise]}
        )
    return points


def counts_above(score: pd.Series, points: pd.DataFrame) -> pd.DataFrame:
    """`points` with the columns `flagged` (files at or above the threshold) and `share` of the files with a score."""
    scored = score.dropna().to_numpy()
    flagged = [int((scored >= threshold).sum()) for threshold in points["threshold"]]
    return points.assign(flagged=flagged, share=np.array(flagged) / max(len(scored), 1))


def flagged_queue(
    table: pd.DataFrame, score: pd.Series, *, threshold: float, least: int = 0, most: int = 480
) -> pd.DataFrame:
    """What `review.ReviewSession` shows: the files at or above the threshold, the highest scores first.

    Nobody has given these files a label: `given` is empty, `suggested` the predicted class. Copies are shown once.

    Args:
        table: of scores.
        score: as from `unsafe_scores`.
        threshold: at or above it a file is flagged.
        least: so many of the highest scores are shown even where they are below it.
        most: no more than so many; the rest stays in the table.
    """
    rows = table.assign(given="", suggested=table["predicted"], score=score).dropna(subset="score")
    rows = rows.drop_duplicates("sha256").sort_values("score", ascending=False, kind="stable")
    rows = rows.head(min(most, max(least, int(rows["score"].ge(threshold).sum()))))
    return rows[["path", "sha256", "given", "suggested", "score"]].reset_index(drop=True)


def thumbnails(table: pd.DataFrame, folder: Path, *, blur: float = 4.0) -> list[np.ndarray]:
    """Small, blurred, grey pictures of the rows; a white one for a file that cannot be read any more."""
    found = []
    for path in table["path"]:
        try:
            found.append(images.blurred_thumbnail(dataset.file_path(folder, path), blur=blur))
        except images.ImageProblem:
            found.append(np.full((96, 96, 3), 255, np.uint8))
    return found


@look.styled
def plot_score_histogram(score: pd.Series, *, points: pd.DataFrame | None = None, ax: Axes | None = None) -> Axes:
    """How many files have which score, on a logarithmic count axis, with the thresholds of `points`.

    Args:
        score: as from `unsafe_scores`.
        points: as from `operating_points`.
        ax: where to draw; a new figure by default.
    """
    ax = look.new_axes(ax, (8, 3.4))
    scored = score.dropna()
    ax.set(xlabel="unsafe score (sum of the unsafe classes' probabilities)", ylabel="files (log)", xlim=(0, 1))
    ax.set_title(f"Scores of {len(scored):,} files")
    if not len(scored):
        look.note(ax, "no file was scored")
        return ax
    ax.hist(scored, bins=np.linspace(0, 1, 41), color=look.MID, edgecolor="white", lw=0.5)
    ax.set_yscale("log")
    ax.set_ylim(bottom=0.7)
    look.plain_log_ticks(ax.yaxis)
    looks = ["-", "--", ":", "-."]
    if points is not None:
        for i, (threshold, rows) in enumerate(points.groupby("threshold")):
            label = f"{threshold:.3g}: {', '.join(rows['wish'].unique())}"
            ax.axvline(threshold, color=look.ACCENT, lw=1.5, ls=looks[i % len(looks)], label=label)
        ax.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8, title="threshold")
    return ax
