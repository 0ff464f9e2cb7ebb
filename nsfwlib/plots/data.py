"""What is in the folders? Counts, problems, sizes, contact sheets, maps.

Numbers come in, Axes or Figure goes out. Every figure reads in greyscale and for colour-blind people: shades differ in
lightness, classes in marker.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nsfwlib.plots.style import (
    ACCENT,
    INK,
    LIGHT,
    MID,
    SPLIT_COLOURS,
    class_looks,
    new_axes,
    note,
    plain_log_ticks,
    shown,
    styled,
)


@styled
def plot_counts(images: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Images per class, stacked by split; those left out for a problem are hatched.

    Args:
        images: the images table (`given_label`, `split`, `problem`).
    """
    part = images["split"].where(images["problem"].eq(""), "left out").fillna("")
    counts = pd.crosstab(images["given_label"], part)
    ax = new_axes(ax, (7, 0.9 + 0.42 * max(len(counts), 1)))
    left = np.zeros(len(counts))
    for name in [s for s in (*SPLIT_COLOURS, "", "left out") if s in counts]:
        look = {"color": SPLIT_COLOURS.get(name, MID), "edgecolor": "white"}
        if name == "left out":
            look = {"facecolor": "white", "edgecolor": ACCENT, "hatch": "////"}
        ax.barh(np.arange(len(counts)), counts[name], left=left, label=name or "usable", height=0.72, **look)
        left = left + counts[name].to_numpy()
    for y, total in enumerate(left):
        ax.text(total, y, f" {int(total):,}", va="center")
    ax.set_yticks(np.arange(len(counts)), counts.index.map(shown))
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
    counts.index = [f"{shown(name)}  ({total:,})" for name, total in counts.sum(axis=1).items()]
    counts.columns = counts.columns.map(shown)
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
        left.scatter(part["width"], part["height"], s=14, alpha=0.6, lw=0, label=shown(name), **look)
    for line in (left.axvline, left.axhline):
        line(input_size, color=INK, lw=0.8, ls=":", zorder=0)
    left.set(xscale="log", yscale="log", xlabel="width (pixels, log)", ylabel="height (pixels, log)")
    plain_log_ticks(left.xaxis)
    plain_log_ticks(left.yaxis)
    left.legend(title=f"dotted: input, {input_size} px", title_fontsize="small", fontsize="small",
                markerscale=1.5, loc="upper left", bbox_to_anchor=(1, 1))  # fmt: skip
    aspect = pd.DataFrame({"aspect": sized["width"] / sized["height"], "class": sized["given_label"]})
    sns.boxplot(aspect, x="aspect", y="class", order=names, color=LIGHT, linecolor=INK, fliersize=2, ax=right)
    right.set_yticks(range(len(names)), [shown(name) for name in names])
    right.set(xscale="log", xlabel="width / height (log; 1 is square)", ylabel="")
    plain_log_ticks(right.xaxis)
    return fig


@styled
def plot_contact_sheet(
    thumbnails: Sequence[np.ndarray], *, titles: Sequence[str] | None = None, columns: int = 8, title: str | None = None
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
    tallest = min(1.0, max((t.shape[0] / t.shape[1] for t in thumbnails), default=1.0))  # a strip stays in a square
    height = rows * (cell * tallest + (0.25 if titles is not None else 0.05)) + (0.35 if title else 0)
    fig, axes = plt.subplots(rows, columns, figsize=(columns * cell, height), squeeze=False)
    for i, ax in enumerate(axes.flat):
        ax.set_axis_off()
        if i < n:
            ax.imshow(thumbnails[i], interpolation="nearest")
        if i < n and titles is not None:
            ax.set_title(shown(titles[i]), fontsize=7, fontweight="normal", loc="center", pad=2)
    if n == 0:
        note(axes.flat[0], "no images")
    fig.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
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
def plot_feature_map(xy: np.ndarray, labels: Sequence[str], *, ax: Axes | None = None) -> Axes:
    """Two-dimensional map of the features, one point an image.

    Args:
        xy: (N, 2) coordinates; distances mean little, neighbourhoods something.
        labels: (N,) class of each image.
    """
    xy, labels = np.asarray(xy), np.asarray(labels).astype(str)
    ax = new_axes(ax, (6.4, 5))
    size = float(np.clip(9000 / max(len(xy), 1), 3, 28))
    for name, look in class_looks(sorted(set(labels))).items():
        points = xy[labels == name]
        ax.scatter(*points.T, s=size, alpha=0.7, lw=0, label=f"{shown(name)} ({len(points):,})", **look)
    ax.set(xticks=[], yticks=[], xlabel="first coordinate (no unit)", ylabel="second coordinate (no unit)")
    ax.set_title(f"{len(xy):,} images by their features")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), markerscale=1.5)
    return ax
