"""What is in the folders, and how suspect are its labels?"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nsfwlib.plots.style import ACCENT, DARK, INK, LIGHT, MID, new_axes, note, plain_log_ticks, shown, styled

Pictures = Sequence[np.ndarray]  # uint8 (H, W, 3) each
SPLIT_COLOURS = {"train": DARK, "val": MID, "test": LIGHT}
CLASS_COLOURS = ("#12355b", "#c8500a", "#1d9a78", "#e0a100", "#7fb8e6", "#8f3f76", "#8a8f98", "#e9dc4a")
CLASS_MARKERS = "osD^vPX*"


@styled
def plot_counts(images: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Images per class, stacked by split; those left out for a problem are hatched: `images` is the images table."""
    counts = pd.crosstab(images["given_label"], images["split"].where(images["problem"].eq(""), "left out").fillna(""))
    ax = new_axes(ax, (7, 0.9 + 0.42 * max(len(counts), 1)))
    looks = {name: {"color": colour, "edgecolor": "white"} for name, colour in (SPLIT_COLOURS | {"": MID}).items()}
    looks["left out"] = {"facecolor": "white", "edgecolor": ACCENT, "hatch": "////"}
    rows, left = np.arange(len(counts)), np.zeros(len(counts), int)
    for name in [name for name in looks if name in counts]:
        ax.barh(rows, counts[name], left=left, label=name or "usable", height=0.72, **looks[name])
        left = left + counts[name].to_numpy()
    for y, total in enumerate(left):
        ax.text(total, y, f" {total:,}", va="center")
    ax.set_yticks(rows, counts.index.map(shown))
    ax.invert_yaxis()
    ax.margins(x=0.1)
    ax.set(xlabel="number of images", title=f"{len(images):,} images by class and split")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return ax


@styled
def plot_problems(images: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Number of images left out, by reason and class (`problem`, `given_label` of the images table)."""
    bad = images[images["problem"].ne("")]
    return _count_table(bad, "problem", f"{len(bad):,} of {len(images):,} images left out", ax)


@styled
def plot_formats(images: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Number of images by sniffed file format and class (`format`, `given_label` of the images table)."""
    known = images[images["format"].fillna("").ne("")]
    return _count_table(known, "format", f"File formats of {len(known):,} images", ax)


def _count_table(images: pd.DataFrame, column: str, title: str, ax: Axes | None) -> Axes:
    """Heat map of counts by a column and the label, rows sorted by their total, the total in the row's name."""
    counts = pd.crosstab(images[column], images["given_label"])
    counts = counts.loc[counts.sum(axis=1).sort_values(ascending=False, kind="stable").index]
    ax = new_axes(ax, (2.6 + 0.9 * counts.shape[1], 1.3 + 0.38 * max(len(counts), 1)))
    ax.set_title(title)
    if counts.empty:
        return note(ax, "none")
    counts.index = [f"{shown(name)}  ({total:,})" for name, total in counts.sum(axis=1).items()]
    counts.columns = counts.columns.map(shown)
    texts = counts.map(lambda n: f"{n:,}" if n else "·")
    sns.heatmap(counts, annot=texts, fmt="", cmap="Blues", cbar=False, linewidths=1, vmin=0, ax=ax)
    ax.set(xlabel="given label", ylabel="")
    ax.tick_params(length=0, rotation=0)
    return ax


@styled
def plot_sizes(images: pd.DataFrame, *, input_size: int = 299, most: int = 5000) -> Figure:
    """Width against height, `most` of them evenly picked, with the model's `input_size`; aspect ratio by class."""
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
    left.legend(title=f"dotted: input, {input_size} px", title_fontsize="small", fontsize="small",
                markerscale=1.5, loc="upper left", bbox_to_anchor=(1, 1))  # fmt: skip
    aspect, label = sized["width"] / sized["height"], sized["given_label"]
    sns.boxplot(x=aspect, y=label, order=names, color=LIGHT, linecolor=INK, fliersize=2, ax=right)
    right.set_yticks(range(len(names)), [shown(name) for name in names])
    right.set(xscale="log", xlabel="width / height (log; 1 is square)", ylabel="")
    for axis in (left.xaxis, left.yaxis, right.xaxis):
        plain_log_ticks(axis)
    return fig


def class_looks(names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Colour and marker of each class: one of them survives greyscale and colour blindness."""
    n, m = len(CLASS_COLOURS), len(CLASS_MARKERS)
    looks = ({"color": CLASS_COLOURS[i % n], "marker": CLASS_MARKERS[(i + i // n) % m]} for i in range(len(names)))
    return dict(zip(names, looks, strict=True))


@styled
def plot_contact_sheet(
    thumbnails: Pictures, *, titles: Sequence[str] | None = None, columns: int = 8, title: str | None = None
) -> Figure:
    """Thumbnails in rows, as they are given: blur them first. `titles` has a short text for each."""
    n, columns = len(thumbnails), max(1, min(columns, max(len(thumbnails), 1)))
    if titles is not None and len(titles) != n:
        raise ValueError(f"Expected one title a thumbnail: {n}. Received: {len(titles)} titles.")
    rows, cell = max(1, -(-n // columns)), 1.3  # inches
    tallest = min(1.0, max((t.shape[0] / t.shape[1] for t in thumbnails), default=1.0))  # a strip stays in a square
    height = rows * (cell * tallest + (0.25 if titles is not None else 0.05)) + (0.35 if title else 0)
    fig, axes = plt.subplots(rows, columns, figsize=(columns * cell, height), squeeze=False)
    plt.setp(axes, frame_on=False, xticks=[], yticks=[])
    for ax, thumbnail, text in zip(axes.flat, thumbnails, [""] * n if titles is None else titles, strict=False):
        ax.imshow(thumbnail, interpolation="nearest")
        ax.set_title(shown(text), fontsize=7, fontweight="normal", loc="center", pad=2)
    if n == 0:
        note(axes.flat[0], "no images")
    fig.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    if title:
        fig.suptitle(title, fontweight="bold", fontsize=11)
    return fig


@styled
def plot_heat_maps(thumbnails: Pictures, heat: Sequence[np.ndarray], *, titles: Sequence[str] | None = None) -> Figure:
    """Where the model looked: heat (h, w) from 0, the most opaque, over each thumbnail; blur them first."""
    fig = plot_contact_sheet(thumbnails, titles=titles, columns=6)
    for ax, values in zip(fig.axes, heat, strict=False):
        share = np.asarray(values, dtype=float) / max(float(np.max(values)), 1e-9)
        look = {"cmap": "inferno", "alpha": 0.65 * np.clip(share, 0, 1), "interpolation": "bilinear"}
        ax.imshow(share, extent=ax.images[0].get_extent(), vmin=0, vmax=1, **look)
    return fig


@styled
def plot_feature_map(xy: np.ndarray, labels: Sequence[str], *, ax: Axes | None = None) -> Axes:
    """Map (N, 2) of the features of N images with labels; distances mean little, neighbourhoods something."""
    xy, labels = np.asarray(xy), np.asarray(labels).astype(str)
    ax = new_axes(ax, (6.4, 5))
    size = float(np.clip(9000 / max(len(xy), 1), 3, 28))
    for name, look in class_looks(sorted(set(labels))).items():
        points = xy[labels == name]
        ax.scatter(*points.T, s=size, alpha=0.7, lw=0, label=f"{shown(name)} ({len(points):,})", **look)
    ax.set(xticks=[], yticks=[], xlabel="first coordinate (no unit)", ylabel="second coordinate (no unit)")
    ax.set_title(f"{len(xy):,} images by their features: a point is one, its colour the given label")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), markerscale=1.5)
    return ax


@styled
def plot_noise_matrix(noise: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Estimated numbers of images by given label (rows) and class believed true (columns), wrong ones shaded."""
    values, k = noise.to_numpy(dtype=float), len(noise)
    ax = new_axes(ax, (2.5 + 0.85 * k, 1.7 + 0.72 * k))
    texts = noise.map(lambda v: f"{v:,.0f}" if v >= 0.5 else "·")
    shade, total = np.where(np.eye(k), 0.0, values), values.sum()
    sns.heatmap(
        shade, annot=texts, fmt="", cmap="Oranges", vmin=0, vmax=max(shade.max(initial=0) * 1.25, 1), cbar=False, ax=ax,
        linewidths=1.5, square=True, xticklabels=noise.columns.map(shown), yticklabels=noise.index.map(shown),
    )  # fmt: skip
    ax.tick_params(length=0, rotation=0)
    share = f" ({shade.sum() / total:.1%})" if total else ""
    title = f"About {shade.sum():,.0f} of {total:,.0f} labels seem wrong{share}"
    ax.set(xlabel="class believed true", ylabel="given label", title=title)
    return ax


@styled
def plot_scores(issues: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Suspicion (`score`) of every label, most suspect first, with the cut (`is_issue`): `labels.find_label_issues`."""
    score, cut = issues["score"].dropna().sort_values(ascending=False).to_numpy(), int(issues["is_issue"].sum())
    ax = new_axes(ax, (7, 3.4))
    ax.set(xlabel="rank (images, most suspect first, log)", ylabel="suspicion (no unit)")
    ax.set_title(f"{cut:,} of {len(issues):,} labels suspected")
    if not len(score):
        return note(ax, "no label was scored")
    rank = np.arange(1, len(score) + 1)
    ax.plot(rank, score, color=DARK, lw=2)
    if cut:
        ax.fill_between(rank[:cut], score[:cut], score.min(), color=LIGHT, lw=0, zorder=0)
        ax.axvline(cut, color=INK, ls="--", lw=1, label=f"suspected: {cut:,}")
        ax.legend(loc="upper right")
    ax.set(xscale="log", xlim=(1, len(score)))
    plain_log_ticks(ax.xaxis)
    return ax
