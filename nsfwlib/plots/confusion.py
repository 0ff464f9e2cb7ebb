"""Who is taken for whom? Confusion matrices, alone and in pairs."""

import itertools
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from nsfwlib.plots.style import new_axes, shown, styled


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
    """Confusion matrix (K, K): rows are the labels, columns the predictions, in the order of `class_names`.

    Of counts, or of shares of each row where none are known; `normalise` shows shares (empty rows stay empty), each
    with its `intervals` (K, K, 2), low and high. By default the title is accuracy and number of images.
    """
    matrix, k = np.asarray(matrix), len(class_names)
    if matrix.shape != (k, k):
        raise ValueError(f"Expected a matrix of {k} × {k}, one row a class name. Received: shape {matrix.shape}.")
    counted, support = np.issubdtype(matrix.dtype, np.integer), matrix.sum(axis=1)
    shares = matrix / np.where(support > 0, support, 1)[:, None] if counted else matrix
    side = 1.7 + (1.0 if intervals is not None else 0.82) * k
    ax = new_axes(ax, (side + 0.8, side))
    texts = _cell_texts(matrix, shares, normalise, intervals if normalise else None)
    sns.heatmap(
        shares, annot=texts, fmt="", cmap="Blues", norm=PowerNorm(0.6, vmin=0, vmax=1), square=True,
        linewidths=1.5, cbar=False, annot_kws={"fontsize": 8.5 if intervals is not None else 10}, ax=ax,
    )  # fmt: skip
    names = [shown(name) for name in class_names]
    rows = [f"{name}\n{int(n):,}" for name, n in zip(names, support, strict=True)] if counted else names
    ax.set_yticks(np.arange(k) + 0.5, rows, rotation=0)
    ax.set_xticks(np.arange(k) + 0.5, names, rotation=0 if k <= 6 else 45)
    ax.tick_params(length=0)
    ax.set(xlabel="predicted label", ylabel="label (number of images)" if counted else "label (share of its images)")
    said = f"Accuracy {np.trace(matrix) / max(matrix.sum(), 1):.1%} of {matrix.sum():,} images"
    said = said if counted else f"Mean recall {np.diag(matrix).mean():.1%}"
    ax.set_title(title if title is not None else said if matrix.any() else "No images")
    return ax


@styled
def plot_confusion_pair(
    before: np.ndarray,
    after: np.ndarray,
    *,
    class_names: Sequence[str],
    titles: tuple[str, str] = ("Before", "After"),
    intervals: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
) -> Figure:
    """Two confusion matrices side by side, each as `plot_confusion` draws it, accuracy added to its title."""
    size = 1.4 + (1.0 if intervals[0] is not None else 0.85) * len(class_names)
    fig, axes = plt.subplots(1, 2, figsize=(2 * size + 1, size))
    for ax, matrix, name, bounds in zip(axes, (before, after), titles, intervals, strict=True):
        plot_confusion(matrix, class_names=class_names, intervals=bounds, ax=ax)
        ax.set_title(f"{name}\n{ax.get_title(loc='left')}")
    axes[1].set_ylabel("")
    return fig


def _cell_texts(matrix: np.ndarray, shares: np.ndarray, normalise: bool, intervals: np.ndarray | None) -> np.ndarray:
    """(K, K) texts: counts, or 90 %, 0.4 %, · for nothing (digits where they matter), its interval on a second line."""
    if not normalise:
        return np.array([[f"{n:,}" if n else "·" for n in row] for row in matrix.tolist()], dtype=object)
    texts = np.full(shares.shape, "–", dtype=object)
    for i, j in itertools.product(np.flatnonzero(matrix.sum(axis=1)), range(len(matrix))):
        share = shares[i, j]
        digits = 0 if share >= 0.0995 or round(share, 4) * 100 % 1 == 0 else 1
        texts[i, j] = f"{share:.{digits}%}" if share else "·"
        if intervals is not None:
            low, high = 100 * np.asarray(intervals)[i, j]
            texts[i, j] += f"\n{low:.0f}–{high:.0f}" if high >= 9.5 else f"\n{low:.1f}–{high:.1f}"
    return texts
