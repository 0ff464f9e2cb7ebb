"""How did training go, and what would more data gain? One function a figure."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from nsfwlib.plots.style import ACCENT, DARK, INK, MID, new_axes, percent, styled


@styled
def plot_history(history: pd.DataFrame) -> Figure:
    """Loss, accuracy and learning rate of all stages of training along one axis of epochs.

    `history` has a row an epoch in order, as from `train.train_head` and `train.fine_tune`.
    """
    epochs, stages = np.arange(1, len(history) + 1), history["stage"].reset_index(drop=True)
    stages = stages[stages.ne(stages.shift())]  # where each begins
    fig, axes = plt.subplots(1, 3, figsize=(12, 3.4), width_ratios=(4, 4, 2.5))
    best = int(np.nanargmin(history["val_loss"])) if history["val_loss"].notna().any() else None
    for ax, name in zip(axes, ("loss", "accuracy"), strict=False):
        ax.plot(epochs, history[name], "--s", color=MID, ms=4, label="training")
        ax.plot(epochs, history[f"val_{name}"], "-o", color=DARK, ms=4, label="validation")
        if best is not None:
            value = history[f"val_{name}"].iloc[best]
            look = {"ms": 10, "mfc": "none", "mec": ACCENT, "mew": 1.5}
            ax.plot(best + 1, value, "o", label=f"lowest val. loss: {value:.3f}", **look)
        ax.margins(y=0.15)
    rates = history["learning_rate"].where(history["learning_rate"] > 0)
    axes[2].plot(epochs, rates, color=DARK, marker="o", ms=4)
    axes[2].set(yscale="log", ylabel="learning rate at its end", title="Learning rate\n")
    axes[2].yaxis.set_major_formatter("{x:.2g}")
    axes[2].yaxis.set_minor_formatter("{x:.2g}")
    for ax in axes:
        ax.set(xlabel="epoch (all stages)", xlim=(0.5, len(history) + 0.5))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        for i, name in stages.items():
            ax.axvline(i + 0.5, color=INK, lw=0.8, ls=":")
            ax.text(i + 0.6, 1.01, name, transform=ax.get_xaxis_transform(), fontsize=8, va="bottom")
    axes[0].set(ylabel="loss (cross-entropy, nats)", title="Loss\n")
    axes[1].set(ylabel="share of images right", title="Accuracy\n")
    percent(axes[1].yaxis)
    axes[0].legend(loc="upper right", fontsize="small")
    axes[1].legend(loc="lower right", fontsize="small")
    return fig


@styled
def plot_learning_curve(curve: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Validation accuracy against the number of training images: each of `train.learning_curve` a dot, and means."""
    ax = new_axes(ax, (5.5, 3.4))
    near = curve.groupby(curve.groupby("repeat").cumcount())[["images", "accuracy"]].mean().sort_values("images")
    ax.plot(curve["images"], curve["accuracy"], "o", color=MID, ms=4, label="one draw")
    ax.plot(near["images"], near["accuracy"], "-o", color=DARK, ms=5, label="mean")
    ax.set(xscale="log", xlabel="training images (log scale)", ylabel="validation images right")
    ax.set_title("What more images gain: a logistic head on frozen features")
    ax.xaxis.set_major_locator(FixedLocator(near["images"].round()))
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.xaxis.set_minor_locator(NullLocator())
    percent(ax.yaxis)
    ax.legend(fontsize="small")
    return ax
