"""What do the numbers look like? One function a figure; numbers come in, Axes or Figure goes out.

The one door to all figures: those of evaluation are re-exported. Every figure reads in greyscale and for colour-blind
people: shades differ in lightness, classes in marker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from nsfwlib.evaluation_plots import (
    plot_calibration,
    plot_class_scores,
    plot_incarnations,
    plot_intervals,
    plot_operating_points,
    plot_precision_recall,
    plot_robustness,
    plot_roc,
    plot_slices,
    plot_threshold,
)
from nsfwlib.look import (
    ACCENT,
    DARK,
    INK,
    LIGHT,
    MID,
    SPLIT_COLOURS,
    class_looks,
    new_axes,
    note,
    plain_log_ticks,
    styled,
)
from nsfwlib.training_plots import plot_history, plot_learning_curve

__all__ = [
    "plot_calibration", "plot_class_scores", "plot_confusion", "plot_confusion_pair", "plot_contact_sheet",
    "plot_counts", "plot_feature_map", "plot_formats", "plot_heat_maps", "plot_history", "plot_incarnations",
    "plot_intervals", "plot_learning_curve", "plot_noise_matrix", "plot_operating_points", "plot_precision_recall",
    "plot_problems",
    "plot_recall_at_budget", "plot_robustness", "plot_roc", "plot_scores", "plot_sizes", "plot_slices",
    "plot_threshold",
]  # fmt: skip


@styled
def plot_counts(images: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Images per class, stacked by split; those left out for a problem are hatched.

    Args:
        images: the images table (`given_label`, `split`, `problem`).
        ax: where to draw; a new figure by default.
    """
    part = images["split"].where(images["problem"].eq(""), "left out").fillna("")
    counts = pd.crosstab(images["given_label"], part)
    ax = new_axes(ax, (7, 0.9 + 0.42 * max(len(counts), 1)))
    left = np.zeros(len(counts))
    for name in [s for s in (*SPLIT_COLOURS, "", "left out") if s in counts]:
        look = {"color": SPLIT_COLOURS.get(name, MID), "edgecolor": "white"}
        if name == "left out":
            look = {"facecolor": "white", "edgecolor": ACCENT, "hatch": "////"}
        ax.barh(counts.index, counts[name], left=left, label=name or "usable", height=0.72, **look)
        left = left + counts[name].to_numpy()
    for y, total in enumerate(left):
        ax.text(total, y, f" {int(total):,}", va="center")
    ax.invert_yaxis()
    ax.margins(x=0.1)
    ax.set(xlabel="number of images", title=f"{len(images):,} images by class and split")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return ax


@styled
def plot_problems(images: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Number of images left out, by reason and class (`problem`, `given_label` of the images table)."""
    bad = images[images["problem"].ne("")]
    counts = pd.crosstab(bad["problem"], bad["given_label"])
    return _count_table(counts, f"{len(bad):,} of {len(images):,} images left out", ax)


@styled
def plot_formats(images: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Number of images by sniffed file format and class (`format`, `given_label` of the images table)."""
    known = images[images["format"].fillna("").ne("")]
    counts = pd.crosstab(known["format"], known["given_label"])
    return _count_table(counts, f"File formats of {len(known):,} images", ax)


def _count_table(counts: pd.DataFrame, title: str, ax: Axes | None) -> Axes:
    """Heat map of counts, rows sorted by their total, the total in the row's name."""
    counts = counts.loc[counts.sum(axis=1).sort_values(ascending=False, kind="stable").index]
    ax = new_axes(ax, (2.6 + 0.9 * counts.shape[1], 1.3 + 0.38 * max(len(counts), 1)))
    ax.set_title(title)
    if counts.empty:
        note(ax, "none")
        return ax
    counts.index = [f"{name}  ({total:,})" for name, total in counts.sum(axis=1).items()]
    texts = counts.map(lambda n: f"{n:,}" if n else "·")
    sns.heatmap(counts, annot=texts, fmt="", cmap="Blues", cbar=False, linewidths=1, vmin=0, ax=ax)
    ax.set(xlabel="given label", ylabel="")
    ax.tick_params(length=0, rotation=0)
    return ax


@styled
def plot_sizes(images: pd.DataFrame, *, input_size: int = 299, most: int = 5000) -> Figure:
    """Width against height, and aspect ratio by class: two panels.

    Args:
        images: the images table; rows without a size are left out.
        input_size: side of the model's input in pixels, drawn for comparison.
        most: at most so many points are drawn, evenly picked; the box plot uses all.
    """
    sized = images[images["width"].fillna(0).gt(0) & images["height"].fillna(0).gt(0)]
    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    left.set_title(f"Size of {len(sized):,} images")
    right.set_title("Aspect ratio by class")
    if sized.empty:
        note(left, "no image with a known size")
        note(right, "")
        return fig
    names = sorted(sized["given_label"].unique())
    few = sized.iloc[np.unique(np.linspace(0, len(sized) - 1, min(most, len(sized))).astype(int))]
    for name, look in class_looks(names).items():
        part = few[few["given_label"].eq(name)]
        left.scatter(part["width"], part["height"], s=14, alpha=0.6, lw=0, label=name, **look)
    for line in (left.axvline, left.axhline):
        line(input_size, color=INK, lw=0.8, ls=":", zorder=0)
    left.set(xscale="log", yscale="log", xlabel="width (pixels, log)", ylabel="height (pixels, log)")
    plain_log_ticks(left.xaxis)
    plain_log_ticks(left.yaxis)
    left.legend(title=f"dotted: input, {input_size} px", title_fontsize="small", fontsize="small",
                markerscale=1.5, loc="upper left", bbox_to_anchor=(1, 1))  # fmt: skip
    aspect = pd.DataFrame({"aspect": sized["width"] / sized["height"], "class": sized["given_label"]})
    sns.boxplot(aspect, x="aspect", y="class", order=names, color=LIGHT, linecolor=INK, fliersize=2, ax=right)
    right.set(xscale="log", xlabel="width / height (log; 1 is square)", ylabel="")
    plain_log_ticks(right.xaxis)
    return fig


@styled
def plot_contact_sheet(
    thumbnails: Sequence[np.ndarray],
    *,
    titles: Sequence[str] | None = None,
    columns: int = 8,
    title: str | None = None,
) -> Figure:
    """Thumbnails in rows, as they are given: blur them first.

    Args:
        thumbnails: uint8 arrays (H, W, 3), already blurred.
        titles: one short text a thumbnail.
        columns: thumbnails in a row.
        title: of the whole sheet.
    """
    n, columns = len(thumbnails), max(1, min(columns, max(len(thumbnails), 1)))
    if titles is not None and len(titles) != n:
        raise ValueError(f"Expected one title a thumbnail: {n}. Received: {len(titles)} titles.")
    rows = max(1, -(-n // columns))
    cell = 1.3
    tallest = max((t.shape[0] / t.shape[1] for t in thumbnails), default=1.0)
    height = rows * (cell * tallest + (0.25 if titles is not None else 0.05)) + (0.35 if title else 0)
    fig, axes = plt.subplots(rows, columns, figsize=(columns * cell, height), squeeze=False)
    for i, ax in enumerate(axes.flat):
        ax.set_axis_off()
        if i < n:
            ax.imshow(thumbnails[i], interpolation="nearest")
        if i < n and titles is not None:
            ax.set_title(titles[i], fontsize=7, fontweight="normal", loc="center", pad=2)
    if n == 0:
        note(axes.flat[0], "no images")
    fig.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    if title:
        fig.suptitle(title, fontweight="bold", fontsize=11)
    return fig


@styled
def plot_heat_maps(
    thumbnails: Sequence[np.ndarray],
    heat: Sequence[np.ndarray],
    *,
    titles: Sequence[str] | None = None,
    columns: int = 6,
) -> Figure:
    """Where the model looked: heat over thumbnails, which are to be blurred first.

    Args:
        thumbnails: uint8 arrays (H, W, 3), already blurred.
        heat: one array (h, w) of numbers from 0 a thumbnail; the most of each becomes opaque.
        titles: one short text a thumbnail.
        columns: thumbnails in a row.
    """
    fig = plot_contact_sheet(thumbnails, titles=titles, columns=columns)
    for ax, picture, values in zip(fig.axes, thumbnails, heat, strict=False):
        height, width = picture.shape[:2]
        share = np.asarray(values, dtype=float) / max(float(np.max(values)), 1e-9)
        ax.imshow(
            share, cmap="inferno", alpha=0.65 * np.clip(share, 0, 1), extent=(-0.5, width - 0.5, height - 0.5, -0.5),
            interpolation="bilinear", vmin=0, vmax=1,
        )  # fmt: skip
    return fig


@styled
def plot_confusion(
    matrix: np.ndarray,
    *,
    class_names: Sequence[str],
    normalise: bool = True,
    intervals: np.ndarray | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Confusion matrix: rows are the labels, columns the predictions.

    Args:
        matrix: (K, K) counts, or shares of each row where no counts are known.
        class_names: of rows and columns, in their order.
        normalise: show shares of the row (empty rows stay empty) instead of counts.
        intervals: (K, K, 2) low and high share of each cell, written under it.
        title: accuracy and number of images by default.
        ax: where to draw; a new figure by default.
    """
    matrix = np.asarray(matrix)
    k = len(class_names)
    if matrix.shape != (k, k):
        raise ValueError(f"Expected a matrix of {k} × {k}, one row a class name. Received: shape {matrix.shape}.")
    counted = np.issubdtype(matrix.dtype, np.integer)
    support = matrix.sum(axis=1)
    shares = matrix / np.where(support > 0, support, 1)[:, None] if counted else matrix
    side = 1.7 + (1.0 if intervals is not None else 0.82) * k
    ax = new_axes(ax, (side + 0.8, side))
    texts = _cell_texts(matrix, shares, normalise, intervals if normalise else None)
    sns.heatmap(
        shares, annot=texts, fmt="", cmap="Blues", norm=PowerNorm(0.6, vmin=0, vmax=1), square=True,
        linewidths=1.5, cbar=False, annot_kws={"fontsize": 8.5 if intervals is not None else 10}, ax=ax,
    )  # fmt: skip
    rows = [f"{name}\n{int(n):,}" for name, n in zip(class_names, support, strict=True)] if counted else class_names
    ax.set_yticks(np.arange(k) + 0.5, rows, rotation=0)
    ax.set_xticks(np.arange(k) + 0.5, class_names, rotation=0 if k <= 6 else 45)
    ax.tick_params(length=0)
    ax.set(
        xlabel="predicted label",
        ylabel="label (number of images)" if counted else "label (share of its images)",
    )
    ax.set_title(title if title is not None else _confusion_title(matrix, counted))
    return ax


@styled
def plot_confusion_pair(
    before: np.ndarray,
    after: np.ndarray,
    *,
    class_names: Sequence[str],
    titles: tuple[str, str] = ("Before", "After"),
    normalise: bool = True,
    intervals: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
) -> Figure:
    """Two confusion matrices side by side, each as `plot_confusion` draws it, accuracy added to its title."""
    size = 1.4 + (1.0 if intervals[0] is not None else 0.85) * len(class_names)
    fig, axes = plt.subplots(1, 2, figsize=(2 * size + 1, size))
    for ax, matrix, name, bounds in zip(axes, (before, after), titles, intervals, strict=True):
        matrix = np.asarray(matrix)
        title = _confusion_title(matrix, np.issubdtype(matrix.dtype, np.integer))
        plot_confusion(
            matrix, class_names=class_names, normalise=normalise, intervals=bounds, ax=ax,
            title=f"{name}\n{title}",
        )  # fmt: skip
    axes[1].set_ylabel("")
    return fig


def _confusion_title(matrix: np.ndarray, counted: bool) -> str:
    total = matrix.sum()
    if not total:
        return "No images"
    if not counted:
        return f"Mean recall {np.diag(matrix).mean():.1%}"
    return f"Accuracy {np.trace(matrix) / total:.1%} of {int(total):,} images"


def _cell_texts(matrix: np.ndarray, shares: np.ndarray, normalise: bool, intervals: np.ndarray | None) -> np.ndarray:
    """(K, K) texts: percentages or counts, the interval on a second line."""
    if not normalise:
        return np.array([[f"{n:,}" if n else "·" for n in row] for row in matrix.tolist()], dtype=object)
    empty = matrix.sum(axis=1) == 0
    texts = np.array([[_percent(p) for p in row] for row in shares], dtype=object)
    if intervals is not None:
        for i, j in np.ndindex(*shares.shape):
            low, high = 100 * np.asarray(intervals)[i, j]
            texts[i, j] += f"\n{low:.0f}–{high:.0f}" if high >= 9.5 else f"\n{low:.1f}–{high:.1f}"
    texts[empty] = "–"
    return texts


def _percent(share: float) -> str:
    """90 %, 0.4 %, · for nothing: digits where they matter."""
    if share == 0:
        return "·"
    return f"{share:.0%}" if share >= 0.0995 or round(share, 4) * 100 % 1 == 0 else f"{share:.1%}"


@styled
def plot_noise_matrix(noise: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Which label was given to which class: estimated numbers of images, wrong ones shaded.

    Args:
        noise: square table of numbers, rows given labels, columns the classes believed true.
        ax: where to draw; a new figure by default.
    """
    values = noise.to_numpy(dtype=float)
    off = ~np.eye(len(noise), dtype=bool)
    k, total = len(noise), values.sum()
    ax = new_axes(ax, (2.5 + 0.85 * k, 1.7 + 0.72 * k))
    texts = np.array([[f"{v:,.0f}" if v >= 0.5 else "·" for v in row] for row in values], dtype=object)
    shade = np.where(off, values, 0.0)
    sns.heatmap(
        shade, annot=texts, fmt="", cmap="Oranges", vmin=0, vmax=max(shade.max(initial=0) * 1.25, 1),
        cbar=False, linewidths=1.5, square=True, ax=ax, xticklabels=noise.columns, yticklabels=noise.index,
    )  # fmt: skip
    ax.tick_params(length=0, rotation=0)
    wrong = shade.sum()
    share = f" ({wrong / total:.1%})" if total else ""
    ax.set(
        xlabel="class believed true",
        ylabel="given label",
        title=f"About {wrong:,.0f} of {total:,.0f} labels wrong{share}",
    )
    return ax


@styled
def plot_scores(issues: pd.DataFrame, *, budget: int | None = None, ax: Axes | None = None) -> Axes:
    """Suspicion of every label, most suspect first, with the cut and the number a person will look at.

    Args:
        issues: `score` (higher is more suspect) and `is_issue`, as from `labels.find_label_issues`.
        budget: how many images will be reviewed; not drawn where unknown.
        ax: where to draw; a new figure by default.
    """
    score = issues["score"].dropna().sort_values(ascending=False).to_numpy()
    cut = int(issues["is_issue"].sum())
    ax = new_axes(ax, (7, 3.4))
    ax.set(xlabel="rank (images, most suspect first, log)", ylabel="suspicion (no unit)")
    ax.set_title(f"{cut:,} of {len(issues):,} labels suspected")
    if not len(score):
        note(ax, "no label was scored")
        return ax
    rank = np.arange(1, len(score) + 1)
    ax.plot(rank, score, color=DARK, lw=2)
    if cut:
        ax.fill_between(rank[:cut], score[:cut], score.min(), color=LIGHT, lw=0, zorder=0)
        ax.axvline(cut, color=INK, ls="--", lw=1, label=f"suspected: {cut:,}")
    if budget is not None:
        ax.axvline(budget, color=ACCENT, lw=2, label=f"budget: {budget:,}")
    ax.set(xscale="log", xlim=(1, len(score)))
    if cut or budget is not None:
        ax.legend(loc="upper right")
    return ax


@styled
def plot_recall_at_budget(
    found: Sequence[bool] | Mapping[str, Sequence[bool]], *, budget: int | None = None, ax: Axes | None = None
) -> Axes:
    """Share of all label errors found against the number of images looked at.

    Args:
        found: for each image in review order, whether its label is wrong; or several rankings by name.
        budget: how many images will be reviewed; not drawn where unknown.
        ax: where to draw; a new figure by default.
    """
    rankings = found if isinstance(found, Mapping) else {"ranking": found}
    rankings = {name: np.asarray(hits, dtype=bool) for name, hits in rankings.items()}
    errors = max(int(hits.sum()) for hits in rankings.values())
    n = max(len(hits) for hits in rankings.values())
    ax = new_axes(ax, (6, 3.8))
    ax.set(
        xlabel="images looked at",
        ylabel="share of label errors found",
        title=f"{errors:,} label errors in {n:,} images",
    )
    if not errors:
        note(ax, "no label error is known")
        return ax
    looks = zip((DARK, ACCENT, MID, INK, LIGHT), ("-", "--", "-.", ":", "-"), strict=True)
    for (name, hits), (colour, dash) in zip(rankings.items(), looks, strict=False):
        ax.plot(
            np.arange(len(hits) + 1),
            np.r_[0, np.cumsum(hits)] / max(hits.sum(), 1),
            color=colour,
            ls=dash,
            lw=2,
            label=name,
        )
    ax.plot([0, errors, n], [0, 1, 1], color="grey", lw=1, ls=(0, (1, 1)), label="perfect ranking")
    ax.plot([0, n], [0, 1], color="grey", lw=1, ls=(0, (5, 5)), label="random order")
    if budget is not None:
        share = next(iter(rankings.values()))[:budget].sum() / errors
        ax.axvline(budget, color=ACCENT, lw=1.2)
        ax.plot(budget, share, "o", color=ACCENT, label=f"{share:.0%} after {budget:,}")
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set(xlim=(0, n), ylim=(0, 1.03))
    ax.legend(loc="lower right", fontsize="small")
    return ax


@styled
def plot_feature_map(
    xy: np.ndarray,
    labels: Sequence[str],
    *,
    marked: Sequence[bool] | None = None,
    marked_name: str = "suspected",
    ax: Axes | None = None,
) -> Axes:
    """Two-dimensional map of the features, one point an image.

    Args:
        xy: (N, 2) coordinates; distances mean little, neighbourhoods something.
        labels: (N,) class of each image.
        marked: (N,) images to ring, for instance suspected labels.
        marked_name: what the ring means, for the legend.
        ax: where to draw; a new figure by default.
    """
    xy, labels = np.asarray(xy), np.asarray(labels).astype(str)
    ax = new_axes(ax, (6.4, 5))
    size = float(np.clip(9000 / max(len(xy), 1), 3, 28))
    for name, look in class_looks(sorted(set(labels))).items():
        points = xy[labels == name]
        ax.scatter(*points.T, s=size, alpha=0.7, lw=0, label=f"{name} ({len(points):,})", **look)
    if marked is not None:
        points = xy[np.asarray(marked, dtype=bool)]
        ax.scatter(
            *points.T,
            s=size * 2.6,
            facecolor="none",
            edgecolor=INK,
            lw=0.9,
            label=f"{marked_name} ({len(points):,})",
        )
    ax.set(xticks=[], yticks=[], xlabel="first coordinate (no unit)", ylabel="second coordinate (no unit)")
    ax.set_title(f"{len(xy):,} images by their features")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), markerscale=1.5)
    return ax
