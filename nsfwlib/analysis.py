"""Which pictures, which baseline, which threshold? The steps of notebook 04 that need more than the predictions."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from nsfwlib import confusions, dataset, images, plots, runs, thresholds


def published_matrices(path: Path | str, *, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Published confusion matrices of the same classes, best last: `name` and `shares` (K, K); often []."""
    if not path or not Path(path).exists():
        return []
    records = confusions.read_incarnations([Path(path)]).sort_values("accuracy")
    return [
        {"name": row["name"], "shares": row["matrix"]}
        for _, row in records.iterrows()
        if list(row["class_names"]) == list(class_names)
    ]


def baseline_answers(
    baseline: str, rows: pd.DataFrame, data_dir: Path, *, cache_dir: Path, class_names: Sequence[str]
) -> pd.Series | None:
    """Predicted classes of a baseline on `rows` of the images table, indexed by path; None where there is no baseline.

    Args:
        baseline: a run folder with `predictions.parquet`, "published" (the model of 2019, on cached features; only
            where its classes are yours), or "".
        rows: `path`, `sha256` of the pictures.
        data_dir: the folder that `path` is relative to.
        cache_dir: where features are kept.
        class_names: the classes of the run at hand.

    Raises:
        FileNotFoundError: the run has no predictions.
        ValueError: the run has other classes, or did not predict these pictures.
    """
    if baseline == "published":
        return _published_answers(rows, data_dir, cache_dir, class_names)
    if not baseline:
        return None
    table = runs.read_table(Path(baseline), "predictions.parquet", made_by="02_fine_tune").set_index("path")
    theirs = [name for name in table.columns if name != "split"]
    missing = ~rows["path"].isin(table.index)
    if theirs != list(class_names) or missing.any():
        raise ValueError(
            f"{baseline} must have predicted the same pictures with the classes {', '.join(class_names)}. Received "
            f"classes {', '.join(theirs)}; {missing.sum():,} pictures are missing. Use a run on the same split, or "
            "baseline_run=''."
        )
    return table.loc[rows["path"], theirs].idxmax(axis=1)


def _published_answers(
    rows: pd.DataFrame, data_dir: Path, cache_dir: Path, class_names: Sequence[str]
) -> pd.Series | None:
    from nsfwlib import features, model, published

    if list(class_names) != list(published.CLASS_NAMES):
        return None
    classifier = published.published_model()
    found = features.bottleneck_features(classifier, rows, data_dir, cache_dir=cache_dir)
    probs = model.head_model(classifier).predict(np.asarray(found, np.float32), verbose=0)
    return pd.Series(np.array(class_names)[probs.argmax(axis=1)], index=pd.Index(rows["path"]))


def cell_queue(
    predictions: pd.DataFrame, labels: pd.DataFrame, table: pd.DataFrame, *, class_names: Sequence[str]
) -> pd.DataFrame:
    """Wrong answers as a review queue: one row a picture, `score` = P(predicted) - P(label), worst first.

    Args:
        predictions: indexed by path, one column a class; rows of `val`.
        labels: indexed by path, `label` in force (missing where the picture was dropped).
        table: the images table, indexed by path.
        class_names: the classes.
    """
    label = labels["label"].reindex(predictions.index).dropna()
    probs = predictions.loc[label.index, list(class_names)]
    suggested = probs.idxmax(axis=1)
    p_given = probs.to_numpy()[np.arange(len(probs)), pd.Categorical(label, list(class_names)).codes]
    queue = pd.DataFrame({"given": label, "suggested": suggested, "p_given": p_given, "p_suggested": probs.max(axis=1)})
    queue = queue[queue["given"].ne(queue["suggested"])]
    queue["score"] = queue["p_suggested"] - queue["p_given"]
    known = table.loc[queue.index, ["sha256", "split", "group"]]
    return queue.join(known).sort_values("score", ascending=False).rename_axis("path").reset_index()


def unsafe_rows(
    predictions: pd.DataFrame, labels: pd.Series, *, class_names: Sequence[str], unsafe_classes: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each picture is unsafe by its label, bool (N,), and P(unsafe), the sum over the unsafe classes, (N,)."""
    score = predictions[[name for name in class_names if name in unsafe_classes]].sum(axis=1)
    return labels.isin(list(unsafe_classes)).to_numpy(), score.to_numpy(float)


def threshold_explorer(
    unsafe: np.ndarray,
    score: np.ndarray,
    *,
    groups: Sequence[int] | None = None,
    threshold: float = 0.5,
    prevalence: float = 0.01,
    uploads: int = 100_000,
) -> ipywidgets.VBox:
    """Sliders for threshold and prevalence over the curves and the expected counts; drawn anew as they move."""
    curve = thresholds.threshold_curve(unsafe, score, groups=groups)
    wide = {"layout": {"width": "420px"}, "style": {"description_width": "80px"}, "continuous_update": False}
    sliders = [
        ipywidgets.FloatSlider(threshold, min=0, max=1, step=0.01, description="threshold", **wide),
        ipywidgets.FloatLogSlider(prevalence, min=-4, max=-0.3, step=0.1, description="prevalence", **wide),
    ]
    # An image widget: an output widget would keep headless runs waiting.
    picture = ipywidgets.Image(format="png")

    def draw(_: Any = None) -> None:
        point = thresholds.at_threshold(
            unsafe, score, sliders[0].value, prevalence=sliders[1].value, groups=groups, uploads=uploads, draws=1000
        )
        figure, png = plots.plot_threshold(curve, point.iloc[0], uploads=uploads), io.BytesIO()
        figure.savefig(png, format="png", dpi=90, bbox_inches="tight")
        plt.close(figure)
        picture.value = png.getvalue()

    for slider in sliders:
        slider.observe(draw, "value")
    draw()
    return ipywidgets.VBox([*sliders, picture])


def cached_robustness(
    run_dir: Path, paths: Sequence[str], data_dir: Path, *, labels: pd.Series, groups: pd.Series
) -> pd.DataFrame:
    """`robustness.robustness` of the run's model on these pictures; kept in the run until model or sample changes."""
    from nsfwlib import model, robustness

    if not len(paths):
        return pd.DataFrame()
    kept, weights = Path(run_dir) / "robustness.parquet", Path(run_dir) / "model.keras"
    key = f"{weights.stat().st_mtime_ns}:{','.join(paths)}:{','.join(labels)}"
    if kept.exists():
        table = pd.read_parquet(kept)
        if table.attrs.get("key") == key:
            return table
    classifier = model.load_model(weights)
    pictures = [images.load_image(dataset.file_path(data_dir, path)) for path in paths]
    table = robustness.robustness(
        pictures,
        list(labels),
        lambda pixels: classifier.predict(pixels, batch_size=16, verbose=0),
        class_names=model.class_names(classifier),
        size=model.image_size(classifier),
        groups=groups.to_numpy(),
    )
    table["level"] = table["level"].astype(str)
    table.attrs["key"] = key
    runs.write_table(table, kept)
    return table


def explain_errors(
    run_dir: Path, paths: Sequence[str], data_dir: Path, *, answers: pd.Series, blur: float = 3.0
) -> tuple[list[np.ndarray], np.ndarray]:
    """Blurred thumbnails of these pictures, and Grad-CAM heat (N, h, w) for the class that the model answered."""
    from nsfwlib import explain, model

    classifier = model.load_model(Path(run_dir) / "model.keras")
    names, size = model.class_names(classifier), model.image_size(classifier)
    files = [dataset.file_path(data_dir, path) for path in paths]
    pixels = np.stack([images.load_image(file, size=size) for file in files])
    heat = explain.heat_maps(classifier, pixels, [names.index(answer) for answer in answers])
    return [images.blurred_thumbnail(file, blur=blur) for file in files], heat
