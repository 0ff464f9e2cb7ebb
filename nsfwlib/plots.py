"""What do the numbers look like? One function a figure; numbers come in, Axes or Figure goes out.

Every figure reads in greyscale and for colour-blind people: shades differ in lightness, classes in marker.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import ParamSpec, TypeVar

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    PercentFormatter,
    StrMethodFormatter,
)

P = ParamSpec("P")
R = TypeVar("R")

INK = "#1f2a36"  # text and lines
DARK, MID, LIGHT = "#15466e", "#4f93c0", "#b9d6ea"  # three lightness steps of one hue
ACCENT = "#c8500a"  # the one thing to look at
CLASS_COLOURS = ("#12355b", "#c8500a", "#1d9a78", "#e0a100", "#7fb8e6", "#8f3f76", "#8a8f98", "#e9dc4a")
CLASS_MARKERS = "osD^vPX*"
SPLIT_COLOURS = {"train": DARK, "val": MID, "test": LIGHT}

_LOOK = sns.axes_style("ticks") | {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "figure.dpi": 110,
    "font.size": 10,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def _styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Draw inside the one look, leaving the reader's own settings as they were."""

    @functools.wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        plt.draw_if_interactive()  # loads the backend: inside the context its interactive mode would be reset
        with mpl.rc_context(_LOOK):
            return draw(*args, **kwargs)

    return inside


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    return plt.subplots(figsize=size)[1] if ax is None else ax


def _note(ax: Axes, text: str) -> None:
    """Say in the middle of an empty figure why it is empty."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", wrap=True)
    ax.set_xticks([])
    ax.set_yticks([])


# ── What is in the folders ──────────────────────────────────────────────────────────────────────


@_styled
def plot_counts(images: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Images per class, stacked by split; those left out for a problem are hatched.

    Args:
        images: the images table (`given_label`, `split`, `problem`).
        ax: where to draw; a new figure by default.
    """
    part = images["split"].where(images["problem"].eq(""), "left out").fillna("")
    counts = pd.crosstab(images["given_label"], part)
    ax = _axes(ax, (7, 0.9 + 0.42 * max(len(counts), 1)))
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


def _count_table(counts: pd.DataFrame, title: str, ax: Axes | None) -> Axes:
    """Heat map of counts, rows sorted by their total, the total in the row's name."""
    counts = counts.loc[counts.sum(axis=1).sort_values(ascending=False, kind="stable").index]
    ax = _axes(ax, (2.6 + 0.9 * counts.shape[1], 1.3 + 0.38 * max(len(counts), 1)))
    ax.set_title(title)
    if counts.empty:
        _note(ax, "none")
        return ax
    counts.index = [f"{name}  ({total:,})" for name, total in counts.sum(axis=1).items()]
    texts = counts.map(lambda n: f"{n:,}" if n else "·")
    sns.heatmap(counts, annot=texts, fmt="", cmap="Blues", cbar=False, linewidths=1, vmin=0, ax=ax)
    ax.set(xlabel="given label", ylabel="")
    ax.tick_params(length=0, rotation=0)
    return ax


@_styled
def plot_problems(images: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Number of images left out, by reason and class (`problem`, `given_label` of the images table)."""
    bad = images[images["problem"].ne("")]
    counts = pd.crosstab(bad["problem"], bad["given_label"])
    return _count_table(counts, f"{len(bad):,} of {len(images):,} images left out", ax)


@_styled
def plot_formats(images: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Number of images by sniffed file format and class (`format`, `given_label` of the images table)."""
    known = images[images["format"].fillna("").ne("")]
    counts = pd.crosstab(known["format"], known["given_label"])
    return _count_table(counts, f"File formats of {len(known):,} images", ax)


@_styled
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
        _note(left, "no image with a known size")
        _note(right, "")
        return fig
    names = sorted(sized["given_label"].unique())
    few = sized.iloc[np.unique(np.linspace(0, len(sized) - 1, min(most, len(sized))).astype(int))]
    for name, look in _class_looks(names).items():
        part = few[few["given_label"].eq(name)]
        left.scatter(part["width"], part["height"], s=14, alpha=0.6, lw=0, label=name, **look)
    for line in (left.axvline, left.axhline):
        line(input_size, color=INK, lw=0.8, ls=":", zorder=0)
    left.set(xscale="log", yscale="log", xlabel="width (pixels, log)", ylabel="height (pixels, log)")
    _plain_log_ticks(left.xaxis)
    _plain_log_ticks(left.yaxis)
    left.legend(title=f"dotted: input, {input_size} px", title_fontsize="small", fontsize="small",
                markerscale=1.5, loc="upper left", bbox_to_anchor=(1, 1))  # fmt: skip
    aspect = pd.DataFrame({"aspect": sized["width"] / sized["height"], "class": sized["given_label"]})
    sns.boxplot(aspect, x="aspect", y="class", order=names, color=LIGHT, linecolor=INK, fliersize=2, ax=right)
    right.set(xscale="log", xlabel="width / height (log; 1 is square)", ylabel="")
    _plain_log_ticks(right.xaxis)
    return fig


def _plain_log_ticks(axis: Axis) -> None:
    """200, 500, 1,000 in place of powers of ten."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axis.set_minor_formatter(NullFormatter())


def _class_looks(names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Colour and marker of each class: one of them survives greyscale and colour blindness."""
    n, m = len(CLASS_COLOURS), len(CLASS_MARKERS)
    return {
        name: {"color": CLASS_COLOURS[i % n], "marker": CLASS_MARKERS[(i + i // n) % m]} for i, name in enumerate(names)
    }


@_styled
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
        _note(axes.flat[0], "no images")
    fig.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    if title:
        fig.suptitle(title, fontweight="bold", fontsize=11)
    return fig


# ── How training went ───────────────────────────────────────────────────────────────────────────


@_styled
def plot_history(history: pd.DataFrame) -> Figure:
    """Loss and accuracy of all stages of training along one axis of epochs.

    Args:
        history: one row an epoch in order: `stage`, `loss`, `accuracy`, `val_loss`, `val_accuracy`.
    """
    epochs = np.arange(1, len(history) + 1)
    stage = history["stage"].to_numpy()
    fig, axes = plt.subplots(1, 2, figsize=(10, 3.4))
    best = int(np.nanargmin(history["val_loss"])) if history["val_loss"].notna().any() else None
    for ax, name in zip(axes, ("loss", "accuracy"), strict=True):
        for column, label, look in (
            (name, "training", {"color": MID, "ls": "--", "marker": "s"}),
            (f"val_{name}", "validation", {"color": DARK, "ls": "-", "marker": "o"}),
        ):
            ax.plot(epochs, history[column], label=label, ms=4, **look)
        for i in np.flatnonzero(stage[1:] != stage[:-1]):
            ax.axvline(i + 1.5, color=INK, lw=0.8, ls=":")
        for i in np.flatnonzero(np.r_[True, stage[1:] != stage[:-1]][: len(stage)]):
            ax.text(i + 0.6, 1.01, stage[i], transform=ax.get_xaxis_transform(), fontsize=8, va="bottom")
        if best is not None:
            value = history[f"val_{name}"].iloc[best]
            ax.plot(
                best + 1,
                value,
                "o",
                ms=10,
                mfc="none",
                mec=ACCENT,
                mew=1.5,
                label=f"lowest val. loss: {value:.3f}",
            )
        ax.set(xlabel="epoch (all stages)", xlim=(0.5, len(history) + 0.5))
        ax.margins(y=0.15)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set(ylabel="loss (cross-entropy, nats)", title="Loss\n")
    axes[1].set(ylabel="share of images right", title="Accuracy\n")
    axes[1].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    for ax, place in zip(axes, ("upper right", "lower right"), strict=True):
        ax.legend(loc=place, fontsize="small")
    return fig


# ── Who is taken for whom ───────────────────────────────────────────────────────────────────────


@_styled
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
    ax = _axes(ax, (side + 0.8, side))
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


@_styled
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


@_styled
def plot_noise_matrix(noise: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Which label was given to which class: estimated numbers of images, wrong ones shaded.

    Args:
        noise: square table of numbers, rows given labels, columns the classes believed true.
        ax: where to draw; a new figure by default.
    """
    values = noise.to_numpy(dtype=float)
    off = ~np.eye(len(noise), dtype=bool)
    k, total = len(noise), values.sum()
    ax = _axes(ax, (2.5 + 0.85 * k, 1.7 + 0.72 * k))
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


# ── Which labels are suspect ────────────────────────────────────────────────────────────────────


@_styled
def plot_scores(issues: pd.DataFrame, *, budget: int | None = None, ax: Axes | None = None) -> Axes:
    """Suspicion of every label, most suspect first, with the cut and the number a person will look at.

    Args:
        issues: `score` (higher is more suspect) and `is_issue`, as from `labels.find_label_issues`.
        budget: how many images will be reviewed; not drawn where unknown.
        ax: where to draw; a new figure by default.
    """
    score = issues["score"].dropna().sort_values(ascending=False).to_numpy()
    cut = int(issues["is_issue"].sum())
    ax = _axes(ax, (7, 3.4))
    ax.set(xlabel="rank (images, most suspect first, log)", ylabel="suspicion (no unit)")
    ax.set_title(f"{cut:,} of {len(issues):,} labels suspected")
    if not len(score):
        _note(ax, "no label was scored")
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


@_styled
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
    ax = _axes(ax, (6, 3.8))
    ax.set(
        xlabel="images looked at",
        ylabel="share of label errors found",
        title=f"{errors:,} label errors in {n:,} images",
    )
    if not errors:
        _note(ax, "no label error is known")
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


@_styled
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
    ax = _axes(ax, (6.4, 5))
    size = float(np.clip(9000 / max(len(xy), 1), 3, 28))
    for name, look in _class_looks(sorted(set(labels))).items():
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


# ── How sure, and which threshold ───────────────────────────────────────────────────────────────


def _whiskers(ax: Axes, y: np.ndarray, table: pd.DataFrame, columns: Sequence[str], **look: str | float) -> None:
    """Dots with their intervals, from the columns of value, low and high; rows without a value stay empty."""
    value, low, high = (table[name].to_numpy(dtype=float) for name in columns)
    look = {"color": DARK, "marker": "o", "ms": 6} | look
    ax.hlines(y, np.where(np.isnan(value), np.nan, low), high, color=look["color"], lw=2)
    ax.plot(value, y, ls="", **look)


_ESTIMATE = ("value", "low", "high")


@_styled
def plot_intervals(
    table: pd.DataFrame, *, xlabel: str = "share of images", title: str | None = None, ax: Axes | None = None
) -> Axes:
    """Estimates with their intervals below one another.

    Args:
        table: `name`, `value`, `low`, `high`, all shares.
        xlabel: what is shared.
        title: of the figure.
        ax: where to draw; a new figure by default.
    """
    ax = _axes(ax, (6.5, 1.1 + 0.42 * len(table)))
    y = np.arange(len(table))
    _whiskers(ax, y, table, _ESTIMATE)
    for i, (value, high) in enumerate(zip(table["value"], table["high"], strict=True)):
        known = not np.isnan(value)
        ax.annotate(
            f"{value:.1%}" if known else "unknown", (high if known else 0.5, i), (6, 0),
            textcoords="offset points", va="center", fontsize=9,
        )  # fmt: skip
    ax.set_yticks(y, table["name"])
    ax.set(xlabel=f"{xlabel} (with 95% interval)", ylim=(len(table) - 0.5, -0.5))
    ax.set_title(title or "")
    ax.margins(x=0.12)
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    ax.grid(axis="x", lw=0.4)
    return ax


@_styled
def plot_class_scores(
    scores: pd.DataFrame, *, which: Sequence[str] = ("precision", "recall", "f1", "average precision")
) -> Figure:
    """Scores of each class with their intervals, one panel a score.

    Args:
        scores: as from `metrics.scores`.
        which: scores to show, in this order.
    """
    names = [name for name in dict.fromkeys(scores["class"]) if name]
    fig, axes = plt.subplots(1, len(which), figsize=(2.7 * len(which) + 1, 1.2 + 0.4 * len(names)), sharey=True)
    for ax, score in zip(np.atleast_1d(axes), which, strict=True):
        table = scores[scores["score"].eq(score) & scores["class"].ne("")].set_index("class").reindex(names)
        _whiskers(ax, np.arange(len(names)), table, _ESTIMATE)
        for i in np.flatnonzero(table["value"].isna()):
            ax.text(0.5, i, "no image", transform=ax.get_yaxis_transform(), ha="center", va="center", fontsize=8)
        ax.set_title(score.capitalize())
        ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.grid(axis="x", lw=0.4)
    supports = scores[scores["score"].eq("recall")].set_index("class")["support"]
    np.atleast_1d(axes)[0].set_yticks(np.arange(len(names)), [f"{name}  ({supports[name]:,})" for name in names])
    np.atleast_1d(axes)[0].set_ylim(len(names) - 0.5, -0.5)
    fig.supxlabel("share (with 95% interval)", fontsize=10)
    return fig


@_styled
def plot_calibration(tables: Mapping[str, pd.DataFrame], *, ax: Axes | None = None) -> Axes:
    """Reliability: accuracy against confidence, the diagonal is honest, below it the model boasts.

    Args:
        tables: by name, such as "before temperature" and "after", each as from `metrics.calibration_table`.
        ax: where to draw; a new figure by default.
    """
    ax = _axes(ax, (5.2, 4.8))
    ax.plot([0, 1], [0, 1], color="grey", lw=1, ls=":")
    looks = ((ACCENT, "s", -0.004), (DARK, "o", 0.004), (MID, "D", 0.0))
    for (name, table), (colour, marker, shift) in zip(tables.items(), looks, strict=False):
        table = table.dropna(subset="accuracy")
        x = table["confidence"] + shift
        ax.vlines(x, table["low"], table["high"], color=colour, lw=1)
        sizes = 12 + 120 * table["count"] / max(table["count"].max(), 1)
        ax.scatter(x, table["accuracy"], s=sizes, color=colour, marker=marker, label=name, zorder=3)
    ax.set(
        xlabel="confidence (probability of the predicted class)", ylabel="share of images right",
        xlim=(0, 1.02), ylim=(0, 1.02), title="Calibration (larger marks: more images)",
    )  # fmt: skip
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.legend(loc="upper left")
    return ax


@_styled
def plot_precision_recall(
    curve: pd.DataFrame, *, points: pd.DataFrame | None = None, title: str | None = None, ax: Axes | None = None
) -> Axes:
    """Precision against recall of flagging unsafe images, with a 95% band for each threshold.

    Args:
        curve: `recall`, `precision`, `precision_low`, `precision_high`, as from `metrics.threshold_curve`.
        points: operating points to mark, up to four (`wish`, `threshold`).
        title: of the figure.
        ax: where to draw; a new figure by default.
    """
    ax = _axes(ax, (5.2, 4.4))
    _band(ax, curve, "recall", "precision")
    _mark_points(ax, curve, points, "recall", "precision")
    ax.set(xlabel="recall (share of unsafe images flagged)", ylabel="precision (share of flagged that is unsafe)")
    ax.set_title(title or "Precision and recall")
    return ax


@_styled
def plot_roc(
    curve: pd.DataFrame, *, points: pd.DataFrame | None = None, title: str | None = None, ax: Axes | None = None
) -> Axes:
    """Recall against false-positive rate, with a 95% band for each threshold; arguments as `plot_precision_recall`."""
    ax = _axes(ax, (5.2, 4.4))
    _band(ax, curve, "fpr", "recall")
    ax.plot([0, 1], [0, 1], color="grey", lw=1, ls=":")
    _mark_points(ax, curve, points, "fpr", "recall")
    ax.set(
        xlabel="false-positive rate (share of safe images flagged)", ylabel="recall (share of unsafe images flagged)"
    )
    ax.set_title(title or "ROC")
    return ax


def _band(ax: Axes, curve: pd.DataFrame, x: str, y: str) -> None:
    known = curve.dropna(subset=[x, y])
    ax.set(xlim=(-0.01, 1.01), ylim=(0, 1.02))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    if known.empty:
        ax.text(0.5, 0.5, "needs safe and unsafe images", transform=ax.transAxes, ha="center")
        return
    ax.fill_between(known[x], known[f"{y}_low"], known[f"{y}_high"], color=LIGHT, lw=0, label="95% interval")
    ax.plot(known[x], known[y], color=DARK, lw=1.8)


def _mark_points(ax: Axes, curve: pd.DataFrame, points: pd.DataFrame | None, x: str, y: str) -> None:
    """Mark each operating point where its threshold lies on the curve, whatever prevalence it was chosen for."""
    looks = zip((ACCENT, INK, "#1d9a78", "#8f3f76"), "sD^v", strict=True)
    rows = [] if points is None else points.dropna(subset="threshold").drop_duplicates("threshold").itertuples()
    for row, (colour, marker) in zip(rows, looks, strict=False):
        here = curve.iloc[max(int((curve["threshold"] >= row.threshold).sum()) - 1, 0)]
        ax.plot(here[x], here[y], marker, color=colour, ms=8, mec="white", label=f"{row.wish} ({row.threshold:.3f})")
    if not curve[[x, y]].dropna().empty:
        ax.legend(loc="lower left" if x == "recall" else "lower right", fontsize="small")


def _share(value: float) -> str:
    return f"{100 * value:.4g}%"


@_styled
def plot_operating_points(points: pd.DataFrame) -> Figure:
    """Precision and recall on test of each threshold chosen on validation, with intervals and what to expect.

    Args:
        points: as from `metrics.operating_points`.
    """
    rows = points.reset_index(drop=True)
    fig, axes = plt.subplots(1, 3, figsize=(12, 1.5 + 0.34 * len(rows)), width_ratios=(1, 1, 0.95), sharey=True)
    y = np.arange(len(rows))
    for ax, name in zip(axes, ("precision", "recall"), strict=False):
        _whiskers(ax, y, rows, (name, f"{name}_low", f"{name}_high"))
        ax.set(xlabel=f"{name} on test (with 95% interval)", xlim=(-0.02, 1.02))
        ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        ax.grid(axis="x", lw=0.4)
    labels = [f"{row.wish}, {_share(row.prevalence)} unsafe" for row in rows.itertuples()]
    axes[0].set_yticks(y, labels)
    axes[0].set(ylim=(len(rows) - 0.5, -1.1))
    for ax in axes:
        for edge in np.flatnonzero(rows["wish"].ne(rows["wish"].shift()))[1:]:
            ax.axhline(edge - 0.5, color="grey", lw=0.6)
    axes[2].set_axis_off()
    columns = {"threshold": 0.1, "flagged": 0.37, "false_alarms": 0.72, "missed": 1.0}
    for name, x in columns.items():
        axes[2].text(x, -0.75, name.replace("_", " "), ha="right", fontweight="bold", fontsize=9)
        for i, value in enumerate(rows[name]):
            text = "–" if np.isnan(value) else f"{value:.3f}" if name == "threshold" else f"{value:,.0f}"
            axes[2].text(x, i, text, ha="right", va="center", fontsize=9)
    axes[2].set_title("images expected per 100,000 uploads", fontsize=10)
    return fig


@_styled
def plot_threshold(curve: pd.DataFrame, point: pd.Series, *, uploads: int = 100_000) -> Figure:
    """One threshold at one prevalence: where it lies on the curves, and what it does to so many uploads.

    Args:
        curve: as from `metrics.threshold_curve`; drawn are recall and false-positive rate, which do not depend on
            prevalence.
        point: a row of `metrics.at_threshold`.
        uploads: to which the counts refer.
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
    for name, label, colour, dash in (("recall", "unsafe flagged", DARK, "-"), ("fpr", "safe flagged", ACCENT, "--")):
        left.fill_between(
            curve["threshold"], curve[f"{name}_low"], curve[f"{name}_high"], color=colour, alpha=0.15, lw=0
        )
        left.plot(curve["threshold"], curve[name], color=colour, ls=dash, lw=1.8, label=label)
    left.axvline(point["threshold"], color=INK, lw=1.5)
    left.set(xlabel="threshold (probability of unsafe)", ylabel="share of images flagged", xlim=(0, 1), ylim=(0, 1.02))
    left.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    left.set_title(f"Threshold {point['threshold']:.3f}")
    left.legend(loc="center", fontsize="small")
    found = point["flagged"] - point["false_alarms"]
    bars = {"unsafe, flagged": found, "unsafe, missed": point["missed"], "safe, flagged": point["false_alarms"]}
    looks = ({"color": DARK}, {"facecolor": "white", "edgecolor": DARK, "hatch": "////"}, {"color": ACCENT})
    for i, (value, look) in enumerate(zip(bars.values(), looks, strict=True)):
        right.barh(i, value, height=0.6, **look)
        right.text(value, i, "–" if np.isnan(value) else f" {value:,.0f}", va="center")
    right.set_yticks(range(3), list(bars))
    right.invert_yaxis()
    right.margins(x=0.18)
    right.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    right.set(xlabel=f"images expected in {uploads:,} uploads")
    share = "–" if np.isnan(point["precision"]) else f"{point['precision']:.1%}"
    spread = f"{point['precision_low']:.1%} to {point['precision_high']:.1%}"
    right.set_title(f"{_share(point['prevalence'])} of uploads unsafe: precision {share} ({spread})", fontsize=10)
    return fig


# ── Where it fails ──────────────────────────────────────────────────────────────────────────────


@_styled
def plot_slices(
    slices: pd.DataFrame, *, top: int = 15, false_discoveries: float = 0.05, ax: Axes | None = None
) -> Axes:
    """Accuracy of the worst slices with intervals; filled where chance is an unlikely reason.

    Args:
        slices: as from `metrics.slices`.
        top: how many of them to draw.
        false_discoveries: slices with `q` up to this share are filled.
        ax: where to draw; a new figure by default.
    """
    table = slices[slices["p"].notna()].head(top).reset_index(drop=True)
    ax = _axes(ax, (7.5, 1.3 + 0.34 * max(len(table), 1)))
    ax.set_title(f"{len(table)} worst of {len(slices)} slices")
    ax.set_xlabel("share of images right (with 95% interval)")
    if table.empty:
        _note(ax, "no slice has enough images")
        return ax
    y = np.arange(len(table))
    sure = table["q"].le(false_discoveries).to_numpy()
    for part, look in ((sure, {"mfc": ACCENT, "color": ACCENT}), (~sure, {"mfc": "white", "color": DARK})):
        _whiskers(ax, y[part], table[part], ("accuracy", "low", "high"), **look)
    ax.plot(table["rest"], y, "|", color=INK, ms=12, label="all other images")
    for mark, label, colour in (("o", f"differs (q ≤ {false_discoveries:g})", ACCENT), ("o", "may be chance", "white")):
        ax.plot([], [], mark, color=DARK if colour == "white" else colour, mfc=colour, label=label)
    ax.set_yticks(y, [f"{row.attribute}: {row.value}  ({row.images:,})" for row in table.itertuples()])
    ax.invert_yaxis()
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.grid(axis="x", lw=0.4)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
    return ax


@_styled
def plot_robustness(table: pd.DataFrame) -> Figure:
    """Accuracy under changes of the picture, one small panel a change, untouched pictures as a dotted line.

    Args:
        table: `change`, `level` (text or number, in drawing order), `value`, `low`, `high`; one row with the change
            "none" is the reference.
    """
    base = table[table["change"].eq("none")]
    changes = [name for name in dict.fromkeys(table["change"]) if name != "none"]
    if not changes:
        raise ValueError("Expected at least one change besides 'none'. Received: none; measure some first.")
    counts = [int(table["change"].eq(name).sum()) for name in changes]
    fig, axes = plt.subplots(
        1, len(changes), figsize=(1.2 + 0.62 * sum(counts) + 0.5 * len(changes), 3.2), sharey=True, squeeze=False,
        width_ratios=[n + 0.6 for n in counts],
    )  # fmt: skip
    for ax, change in zip(axes[0], changes, strict=True):
        part = table[table["change"].eq(change)]
        x = np.arange(len(part))
        ax.vlines(x, part["low"], part["high"], color=DARK, lw=2)
        ax.plot(x, part["value"], "o-", color=DARK, lw=1, ms=6)
        for value in base["value"]:
            ax.axhline(value, color=INK, lw=1, ls=":")
        ax.set_xticks(x, part["level"].astype(str), rotation=45 if len(part) > 5 else 0)
        ax.set_xlim(-0.6, len(part) - 0.4)
        ax.set_title(change, fontsize=10)
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes[0][0].set_ylabel("share of images right\n(with 95% interval)")
    return fig


@_styled
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


@_styled
def plot_incarnations(incarnations: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Accuracy of one confusion matrix after the other; published ones, whose images nobody knows, are hollow.

    Args:
        incarnations: as from `metrics.read_incarnations`.
        ax: where to draw; a new figure by default.
    """
    ax = _axes(ax, (max(5, 1.3 * len(incarnations) + 1.5), 3.6))
    ax.set(ylabel="share of images right", title="Accuracy over incarnations")
    if incarnations.empty:
        _note(ax, "no confusion matrix yet")
        return ax
    x, value = np.arange(len(incarnations)), incarnations["accuracy"].to_numpy()
    own = incarnations["images"].gt(0).to_numpy()
    ax.vlines(x, incarnations["low"], incarnations["high"], color=DARK, lw=2)
    ax.plot(x[own], value[own], "o", color=DARK, ms=8, label="measured here (with 95% interval)")
    ax.plot(x[~own], value[~own], "s", color=DARK, mfc="white", ms=8, label="published, other test images")
    for i, share in enumerate(value):
        ax.annotate(f"{share:.1%}", (i, share), (8, 0), textcoords="offset points", va="center", fontsize=9)
    names = [f"{name}\n{date}".strip() for name, date in zip(incarnations["name"], incarnations["date"], strict=True)]
    ax.set_xticks(x, names)
    ax.set_xlim(-0.5, len(x) - 0.2)
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.margins(y=0.2)
    ax.legend(loc="upper left", bbox_to_anchor=(0, -0.2), fontsize="small")
    return ax
