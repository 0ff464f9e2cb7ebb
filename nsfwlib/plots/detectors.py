"""Which detector catches most at the false-positive rate one can afford? The figures of comparing and of planning."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, StrMethodFormatter

from nsfwlib.plots.data import class_looks
from nsfwlib.plots.style import ACCENT, INK, LIGHT, new_axes, percent, shown, styled

_LEAST = 1e-3  # where the logarithmic axis of false-positive rates begins


@styled
def plot_detectors(curves: Mapping[str, pd.DataFrame], *, title: str | None = None, ax: Axes | None = None) -> Axes:
    """ROC curves with their 95% bands; the axis of false-positive rates is logarithmic, for the left end matters.

    Args:
        curves: by detector, each as from `evaluate.threshold_curve`.
    """
    ax, looks = new_axes(ax, (7, 4.6)), class_looks(list(curves))
    for name, curve in curves.items():
        known = curve.dropna(subset=["recall", "fpr"])
        x, look = known["fpr"].clip(lower=_LEAST), looks[name]
        ax.fill_between(
            x, known["recall_low"], known["recall_high"], color=look["color"], alpha=0.12, lw=0, step="post"
        )
        ax.step(x, known["recall"], where="post", lw=1.8, label=shown(name), markevery=0.15, ms=5, **look)
    ax.set(xscale="log", xlim=(_LEAST, 1), ylim=(0, 1.02), title=title or "ROC")
    ax.set(
        xlabel="false-positive rate (share of safe images flagged)", ylabel="recall (share of unsafe images flagged)"
    )
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    percent(ax.yaxis)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small", title="with 95% band")
    return ax


@styled
def plot_week(week: pd.DataFrame, *, title: str | None = None, ax: Axes | None = None) -> Axes:
    """How many pictures wait for a person at the end of each hour, and how many arrive and are looked at in it.

    Args:
        week: as from `evaluate.review_week`.
    """
    ax, days = new_axes(ax, (8, 3.4)), (week.index + 1) / 24
    ax.fill_between(days, week["backlog"], color=LIGHT, lw=0, label="waiting")
    ax.plot(days, week["arrived"], color=INK, lw=1, label="arriving an hour")
    ax.plot(days, week["reviewed"], color=ACCENT, lw=1.4, ls="--", label="looked at an hour")
    ax.set(xlabel="day", ylabel="pictures", xlim=(0, days.max()), ylim=(0, None), title=title or "The review queue")
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
    return ax
