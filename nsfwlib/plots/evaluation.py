"""How good, how sure, which threshold, and where does it fail? The figures of evaluation."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from nsfwlib.plots.style import ACCENT, DARK, INK, LIGHT, MID, new_axes, note, percent, plain_log_ticks, shown, styled

_RATES = {
    "recall": "recall (share of unsafe images flagged)",
    "fpr": "false-positive rate (share of safe images flagged)",
    "precision": "precision (share of flagged that is unsafe)",
}
_FLOOR = 1e-8  # where the log scale of differences begins


@styled
def plot_intervals(
    table: pd.DataFrame, *, xlabel: str = "share of images", title: str | None = None, ax: Axes | None = None
) -> Axes:
    """Estimates with their intervals below one another, the first on top.

    Args:
        table: `name`, `value`, `low`, `high`, all shares.
        xlabel: what is shared.
    """
    ax = new_axes(ax, (6.5, 1.1 + 0.42 * len(table)))
    _whiskers(ax, np.arange(len(table)), table, ("value", "low", "high"))
    ax.set_yticks(np.arange(len(table)), table["name"].map(shown))
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.grid(axis="x", lw=0.4)
    for i, (value, high) in enumerate(zip(table["value"], table["high"], strict=True)):
        known = not np.isnan(value)
        ax.annotate(
            f"{value:.1%}" if known else "unknown", (high if known else 0.5, i), (6, 0),
            textcoords="offset points", va="center", fontsize=9,
        )  # fmt: skip
    ax.set(xlabel=f"{xlabel} (with 95% interval)", title=title or "")
    ax.margins(x=0.12)
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    return ax


@styled
def plot_class_scores(
    scores: pd.DataFrame, *, which: Sequence[str] = ("precision", "recall", "f1", "average precision")
) -> Figure:
    """Scores of each class with their intervals, one panel a score.

    Args:
        scores: as from `evaluate.scores`.
        which: scores to show, in this order.
    """
    support = scores[scores["score"].eq("recall")].set_index("class")["support"]
    size = (2.7 * len(which) + 1, 1.2 + 0.4 * len(support))
    fig, axes = plt.subplots(1, len(which), figsize=size, sharey=True, squeeze=False)
    for ax, score in zip(axes[0], which, strict=True):
        table = scores[scores["score"].eq(score)].set_index("class").reindex(support.index)
        table["name"] = [f"{name}  ({n:,})" for name, n in support.items()]
        plot_intervals(table, xlabel="share", title=score.capitalize(), ax=ax)
        ax.xaxis.set_major_locator(MaxNLocator(3))
    return fig


@styled
def plot_calibration(tables: Mapping[str, pd.DataFrame], *, ax: Axes | None = None) -> Axes:
    """Reliability: accuracy against confidence, the diagonal is honest, below it the model boasts.

    Args:
        tables: by name, such as "before temperature" and "after", each as from `evaluate.calibration_table`.
    """
    ax = new_axes(ax, (5.2, 4.8))
    ax.plot([0, 1], [0, 1], color="grey", lw=1, ls=":")
    looks = ((ACCENT, "s", -0.004), (DARK, "o", 0.004), (MID, "D", 0.0))
    for (name, table), (colour, marker, shift) in zip(tables.items(), looks, strict=False):
        table = table.dropna(subset="accuracy")
        x = table["confidence"] + shift
        ax.vlines(x, table["low"], table["high"], color=colour, lw=1)
        sizes = 12 + 120 * table["count"] / max(table["count"].max(), 1)
        ax.scatter(x, table["accuracy"], s=sizes, color=colour, marker=marker, label=shown(name), zorder=3)
    ax.set(
        xlabel="confidence (probability of the predicted class)", ylabel="share of images right",
        xlim=(0, 1.02), ylim=(0, 1.02), title="Calibration (larger marks: more images)",
    )  # fmt: skip
    percent(ax.xaxis, ax.yaxis)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return ax


@styled
def plot_precision_recall(
    curve: pd.DataFrame, *, points: pd.DataFrame | None = None, title: str | None = None, ax: Axes | None = None
) -> Axes:
    """Precision against recall of flagging unsafe images, with a 95% band for each threshold.

    Args:
        curve: `recall`, `precision`, `precision_low`, `precision_high`, as from `evaluate.threshold_curve`.
        points: operating points to mark, up to four (`wish`, `threshold`).
    """
    return _draw_curve(curve, "recall", "precision", points, title or "Precision and recall", ax)


@styled
def plot_roc(
    curve: pd.DataFrame, *, points: pd.DataFrame | None = None, title: str | None = None, ax: Axes | None = None
) -> Axes:
    """Recall against false-positive rate, with a 95% band for each threshold; arguments as `plot_precision_recall`."""
    return _draw_curve(curve, "fpr", "recall", points, title or "ROC", ax)


def _draw_curve(curve: pd.DataFrame, x: str, y: str, points: pd.DataFrame | None, title: str, ax: Axes | None) -> Axes:
    """One rate against another; operating points where their threshold lies, whatever prevalence it was chosen for."""
    ax = new_axes(ax, (5.2, 4.4))
    ax.set(xlabel=_RATES[x], ylabel=_RATES[y], title=title, xlim=(-0.01, 1.01), ylim=(0, 1.02))
    percent(ax.xaxis, ax.yaxis)
    known = curve.dropna(subset=[x, y])
    if known.empty:
        ax.text(0.5, 0.5, "needs safe and unsafe images", transform=ax.transAxes, ha="center")
        return ax
    ax.fill_between(known[x], known[f"{y}_low"], known[f"{y}_high"], color=LIGHT, lw=0, label="95% interval")
    ax.plot(known[x], known[y], color=DARK, lw=1.8)
    if x == "fpr":
        ax.plot([0, 1], [0, 1], color="grey", lw=1, ls=":")
    looks = zip((ACCENT, INK, "#1d9a78", "#8f3f76"), "sD^v", strict=True)
    rows = [] if points is None else points.dropna(subset="threshold").drop_duplicates("threshold").itertuples()
    for row, (colour, marker) in zip(rows, looks, strict=False):
        here = curve.iloc[max(int((curve["threshold"] >= row.threshold).sum()) - 1, 0)]
        ax.plot(here[x], here[y], marker, color=colour, ms=8, mec="white", label=f"{row.wish} ({row.threshold:.3f})")
    ax.legend(loc="lower left" if x == "recall" else "lower right", fontsize="small")
    return ax


@styled
def plot_threshold(curve: pd.DataFrame, point: pd.Series, *, uploads: int = 100_000) -> Figure:
    """One threshold, or two with a person between them, at one prevalence: where on the curves, and what it does.

    Args:
        curve: as from `evaluate.threshold_curve`; drawn are recall and false-positive rate, which do not depend on
            prevalence.
        point: a row of `evaluate.at_threshold`.
        uploads: to which the counts refer.
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
    for name, label, colour, dash in (("recall", "unsafe flagged", DARK, "-"), ("fpr", "safe flagged", ACCENT, "--")):
        left.fill_between(
            curve["threshold"], curve[f"{name}_low"], curve[f"{name}_high"], color=colour, alpha=0.15, lw=0
        )
        left.plot(curve["threshold"], curve[name], color=colour, ls=dash, lw=1.8, label=label)
    low, high = point.get("review_from", point["threshold"]), min(point["threshold"], 1.0)
    left.axvline(high, color=INK, lw=1.5)
    left.axvspan(low, high, facecolor=MID, alpha=0.25, label="to a person" if low < high else None)
    left.set(xlabel="threshold (probability of unsafe)", ylabel="share of images flagged", xlim=(0, 1), ylim=(0, 1.02))
    percent(left.yaxis)
    left.set_title(f"Threshold {point['threshold']:.3f}" + (f", a person from {low:.3f}" if low < high else ""))
    left.legend(loc="center", fontsize="small")
    bars = {
        "flagged": "flagged",
        "to a person": "reviewed",
        "unsafe, missed": "missed",
        "safe, flagged": "false_alarms",
    }
    bars = {name: column for name, column in bars.items() if column in point and (column != "reviewed" or low < high)}
    looks = {
        "flagged": {"color": DARK}, "reviewed": {"color": MID}, "false_alarms": {"color": ACCENT},
        "missed": {"facecolor": "white", "edgecolor": DARK, "hatch": "////"},
    }  # fmt: skip
    for i, column in enumerate(bars.values()):
        value, ends = point[column], (point[f"{column}_low"], point[f"{column}_high"])
        right.barh(i, value, height=0.6, **looks[column])
        right.hlines(i, *ends, color=INK, lw=1.5)
        text = "–" if np.isnan(value) else f" {value:,.0f} ({ends[0]:,.0f}–{ends[1]:,.0f})"
        right.text(np.fmax(value, ends[1]), i, text, va="center")
    right.set_yticks(range(len(bars)), list(bars))
    right.invert_yaxis()
    right.margins(x=0.3)
    right.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    right.set(xlabel=f"images expected in {uploads:,} uploads (with 95% interval)")
    share = "{precision:.1%} ({precision_low:.1%} to {precision_high:.1%})".format(**point)
    share = "–" if np.isnan(point["precision"]) else share
    right.set_title(f"{100 * point['prevalence']:.4g}% of uploads unsafe: precision {share}", fontsize=10)
    return fig


@styled
def plot_slices(slices: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Accuracy of the 15 worst slices with intervals; filled where chance is an unlikely reason (`q` ≤ 0.05).

    Args:
        slices: as from `evaluate.accuracy_by_slice`.
    """
    table = slices[slices["p"].notna()].head(15).reset_index(drop=True)
    ax = new_axes(ax, (7.5, 1.3 + 0.34 * max(len(table), 1)))
    ax.set_title(f"{len(table)} worst of {len(slices)} slices")
    ax.set_xlabel("share of images right (with 95% interval)")
    if table.empty:
        note(ax, "no slice has enough images")
        return ax
    y = np.arange(len(table))
    sure = table["q"].le(0.05).to_numpy()
    for part, look in ((sure, {"mfc": ACCENT, "color": ACCENT}), (~sure, {"mfc": "white", "color": DARK})):
        _whiskers(ax, y[part], table[part], ("accuracy", "low", "high"), **look)
    ax.plot(table["rest"], y, "|", color=INK, ms=12, label="all other images")
    ax.plot([], [], "o", color=ACCENT, mfc=ACCENT, label="differs (q ≤ 0.05)")
    ax.plot([], [], "o", color=DARK, mfc="white", label="may be chance")
    ax.set_yticks(y, [f"{shown(f'{row.attribute}: {row.value}')}  ({row.images:,})" for row in table.itertuples()])
    ax.invert_yaxis()
    percent(ax.xaxis)
    ax.grid(axis="x", lw=0.4)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
    return ax


@styled
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
        percent(ax.yaxis)
    axes[0][0].set_ylabel("share of images right\n(with 95% interval)")
    return fig


@styled
def plot_score_histogram(score: pd.Series, *, points: pd.DataFrame | None = None, ax: Axes | None = None) -> Axes:
    """How many files have which score, on a logarithmic count axis, with the thresholds of `points`.

    Args:
        score: as from `unsafe_scores`.
        points: as from `operating_points`.
    """
    ax = new_axes(ax, (8, 3.4))
    scored = score.dropna()
    ax.set(xlabel="unsafe score (sum of the unsafe classes' probabilities)", ylabel="files (log)", xlim=(0, 1))
    ax.set_title(f"Scores of {len(scored):,} files")
    if not len(scored):
        note(ax, "no file was scored")
        return ax
    ax.hist(scored, bins=np.linspace(0, 1, 41), color=MID, edgecolor="white", lw=0.5)
    ax.set_yscale("log")
    ax.set_ylim(bottom=0.7)
    plain_log_ticks(ax.yaxis)
    looks = ["-", "--", ":", "-."]
    if points is not None:
        for i, (threshold, rows) in enumerate(points.groupby("threshold")):
            label = f"{threshold:.3g}: {', '.join(rows['wish'].unique())}"
            ax.axvline(threshold, color=ACCENT, lw=1.5, ls=looks[i % len(looks)], label=label)
        ax.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8, title="threshold")
    return ax


@styled
def plot_parity(table: pd.DataFrame) -> Figure:
    """Size, time and disagreement of each format, a panel each.

    Args:
        table: as from `export.export`.
    """
    figure, axes = plt.subplots(1, 3, figsize=(12, 1.5 + 0.42 * len(table)), sharey=True)
    size, time_taken = table["size_mb"], table["ms_per_image"]
    _bars(axes[0], size, size.map("{:,.0f}".format), "Size, MB")
    times = time_taken.map("{:,.0f}".format).where(time_taken.notna(), "not measured")
    _bars(axes[1], time_taken, times, "Time, ms an image")
    differences, changed = table["largest_difference"], table["changed_argmax"]
    texts = [f"{d:.0e}, {c} changed" if d else "0" for d, c in zip(differences, changed, strict=True)]
    _bars(axes[2], differences.clip(lower=_FLOOR), texts, "Largest difference of a probability")
    xlabel = f"orange: tolerance; changed: another answer, of {table['pictures'].iloc[0]}"
    axes[2].set(xscale="log", xlim=(_FLOOR, 1), xlabel=xlabel)
    plain_log_ticks(axes[2].xaxis, subs=(1,))
    limits = table["tolerance"].where(table["tolerated"].eq("largest_difference"))
    axes[2].plot(limits, np.arange(len(table)), "|", color=ACCENT, ms=16, mew=2)
    axes[0].set_yticks(np.arange(len(table)), table.index)
    axes[0].invert_yaxis()
    return figure


def _bars(ax: Axes, values: pd.Series, texts: Sequence[str], title: str) -> None:
    places = np.arange(len(values))
    ax.barh(places, values.fillna(0), color=LIGHT, height=0.6)
    for place, text in zip(places, texts, strict=True):
        ax.annotate(
            text, (0, place), (4, 0), xycoords=("axes fraction", "data"), textcoords="offset points", va="center"
        )
    ax.set_title(title)


def _whiskers(ax: Axes, y: np.ndarray, table: pd.DataFrame, columns: Sequence[str], **look: str | float) -> None:
    """Dots with their intervals, from the columns of value, low and high; rows without a value stay empty."""
    value, low, high = (table[name].to_numpy(dtype=float) for name in columns)
    look = {"color": DARK, "marker": "o", "ms": 6} | look
    ax.hlines(y, np.where(np.isnan(value), np.nan, low), high, color=look["color"], lw=2)
    ax.plot(value, y, ls="", **look)
