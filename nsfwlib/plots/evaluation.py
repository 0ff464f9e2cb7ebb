"""How did training go, how good is it, how sure, which threshold, and where does it fail? One function a figure."""

import itertools
from collections.abc import Callable, Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from nsfwlib.plots.data import class_looks
from nsfwlib.plots.style import ACCENT, DARK, INK, LIGHT, MID, PER_CENT, new_axes, note, plain_log_ticks, shown, styled

_RATES = {
    "recall": "recall (share of unsafe images flagged)",
    "fpr": "false-positive rate (share of safe images flagged)",
    "precision": "precision (share of flagged that is unsafe)",
}
_FLOOR = 1e-8  # where the log scale of differences begins
_LEAST = 1e-3  # and that of false-positive rates


@styled
def plot_history(history: pd.DataFrame) -> Figure:
    """Loss, accuracy and learning rate along one axis, a row an epoch of all stages, as from `train.fine_tune`."""
    history = history.set_axis(np.arange(1, len(history) + 1))
    stages = history["stage"][history["stage"].ne(history["stage"].shift())]  # where each begins
    fig, axes = plt.subplots(1, 3, figsize=(12, 3.4), width_ratios=(4, 4, 2.5))
    best = history.dropna(subset="val_loss").nsmallest(1, "val_loss")
    for ax, name in zip(axes, ("loss", "accuracy"), strict=False):
        ax.plot(history[name], "--s", color=MID, ms=4, label="training")
        ax.plot(history[f"val_{name}"], "-o", color=DARK, ms=4, label="validation")
        for epoch, value in best[f"val_{name}"].items():
            text = f"lowest val. loss: {value:.3f}" if name == "loss" else f"there: {value:.1%}"
            ax.plot(epoch, value, "o", label=text, ms=10, mfc="none", mec=ACCENT, mew=1.5)
        ax.margins(y=0.15)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, fontsize="small")  # off the lines
    axes[2].plot(history["learning_rate"].where(history["learning_rate"] > 0), color=DARK, marker="o", ms=4)
    axes[2].set(yscale="log", ylabel="learning rate halfway", title="Learning rate\n")
    plain_log_ticks(axes[2].yaxis)
    for ax in axes:
        ax.set(xlabel="epoch (all stages)", xlim=(0.5, len(history) + 0.5))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        for epoch, name in stages.items():
            ax.axvline(epoch - 0.5, color=INK, lw=0.8, ls=":")
            ax.text(epoch - 0.4, 1.01, name, transform=ax.get_xaxis_transform(), fontsize=8, va="bottom")
    axes[0].set(ylabel="loss (cross-entropy, nats)", title="Loss\n")
    axes[1].set(ylabel="share of images right", title="Accuracy\n")
    axes[1].yaxis.set_major_formatter(PER_CENT)
    return fig


def live_history(before: pd.DataFrame) -> Callable[[pd.DataFrame], None]:
    """`on_epoch` of `train.fine_tune`: `plot_history` below the running cell, of the rows `before` and those so far."""
    place = display({"text/plain": "The curves follow after the first epoch."}, raw=True, display_id=True)

    def redraw(rows: pd.DataFrame) -> None:
        figure = plot_history(pd.concat([before, rows], ignore_index=True))
        plt.close(figure)  # else it is shown once more at the end of the cell
        place.update(figure)

    return redraw


@styled
def plot_learning_curve(curve: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Validation accuracy against the number of training images: each of `train.learning_curve` a dot, and means."""
    ax = new_axes(ax, (5.5, 3.4))
    near = curve.groupby(curve.groupby("repeat").cumcount())[["images", "accuracy"]].mean().sort_values("images")
    ax.plot(curve["images"], curve["accuracy"], "o", color=MID, ms=4, label="one draw")
    ax.plot(near["images"], near["accuracy"], "-o", color=DARK, ms=5, label="mean")
    ax.set(xscale="log", xlabel="training images (log scale)", ylabel="validation images right")
    ax.set_title("What more images gain: a logistic head on frozen features")
    ax.set_xticks(near["images"].round(), near["images"].map("{:,.0f}".format))
    ax.minorticks_off()
    ax.yaxis.set_major_formatter(PER_CENT)
    ax.legend(fontsize="small")
    return ax


@styled
def plot_intervals(
    table: pd.DataFrame, *, xlabel: str = "share of images", title: str = "", write: bool = True, ax: Axes | None = None
) -> Axes:
    """Estimates (`name`, `value`, `low`, `high`; shares of `xlabel`) below one another; `write` their numbers."""
    ax, places = new_axes(ax, (6.5, 1.1 + 0.42 * len(table))), np.arange(len(table))
    for i, value, high in zip(places, table["value"], table["high"], strict=True) if write else ():
        text, end = ("unknown", 0.5) if np.isnan(value) else (f"{value:.1%}", np.fmax(value, high))
        ax.annotate(text, (end, i), (6, 0), textcoords="offset points", va="center", fontsize=9)
    ax.hlines(places, table["low"].where(table["value"].notna()), table["high"], color=DARK, lw=2)
    ax.plot(table["value"], places, "o", color=DARK, ms=6)
    ax.set_yticks(places, table["name"].map(shown))
    ax.set_ylim(max(len(table), 1) - 0.5, -0.5)
    ax.grid(axis="x", lw=0.4)
    ax.set(xlabel=f"{xlabel} (with 95% interval)", title=title)
    ax.margins(x=0.12)
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    return ax


@styled
def plot_class_scores(scores: pd.DataFrame) -> Figure:
    """Precision, recall, F1 and average precision of each class of `evaluate.scores` with intervals, a panel each."""
    support = scores[scores["score"].eq("recall")].set_index("class")["support"]
    fig, axes = plt.subplots(1, 4, figsize=(11.8, 1.2 + 0.4 * len(support)), sharey=True)
    for ax, score in zip(axes, ("precision", "recall", "f1", "average precision"), strict=True):
        table = scores[scores["score"].eq(score)].set_index("class").reindex(support.index)
        table["name"] = [f"{name}  ({n:,})" for name, n in support.items()]
        plot_intervals(table, xlabel="share", title=score.capitalize(), ax=ax)
        ax.xaxis.set_major_locator(MaxNLocator(3))
    return fig


@styled
def plot_calibration(tables: Mapping[str, pd.DataFrame], *, ax: Axes | None = None) -> Axes:
    """Reliability by name, of `evaluate.calibration_table`: the diagonal is honest, below it the model boasts."""
    ax = new_axes(ax, (5.2, 4.8))
    ax.plot([0, 1], [0, 1], color="grey", lw=1, ls=":")
    looks = ((ACCENT, "s", -0.004), (DARK, "o", 0.004), (MID, "D", 0.0))
    for (name, table), (colour, marker, shift) in zip(tables.items(), looks, strict=False):
        table = table.dropna(subset="accuracy")
        x, sizes = table["confidence"] + shift, 12 + 120 * table["count"] / max(table["count"].max(), 1)
        ax.vlines(x, table["low"], table["high"], color=colour, lw=1)
        ax.scatter(x, table["accuracy"], s=sizes, color=colour, marker=marker, label=shown(name), zorder=3)
    ax.set(
        xlabel="confidence (probability of the predicted class)", ylabel="share of images right",
        xlim=(0, 1.02), ylim=(0, 1.02), title="Calibration (larger marks: more images)",
    )  # fmt: skip
    plt.setp([ax.xaxis, ax.yaxis], major_formatter=PER_CENT)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return ax


@styled
def plot_precision_recall(curve: pd.DataFrame, *, title: str | None = None, ax: Axes | None = None) -> Axes:
    """Precision against recall of `evaluate.threshold_curve`, with a 95% band for each threshold."""
    return _draw_curve(curve, "recall", "precision", title or "Precision and recall", ax)


@styled
def plot_roc(curve: pd.DataFrame, *, title: str | None = None, ax: Axes | None = None) -> Axes:
    """Recall against false-positive rate of `evaluate.threshold_curve`, with a 95% band for each threshold."""
    ax = _draw_curve(curve, "fpr", "recall", title or "ROC", ax)
    ax.plot([0, 1], [0, 1], color="grey", lw=1, ls=":")
    return ax


def _draw_curve(curve: pd.DataFrame, x: str, y: str, title: str, ax: Axes | None) -> Axes:
    ax = new_axes(ax, (5.2, 4.4))
    ax.set(xlabel=_RATES[x], ylabel=_RATES[y], title=title, xlim=(-0.01, 1.01), ylim=(0, 1.02))
    plt.setp([ax.xaxis, ax.yaxis], major_formatter=PER_CENT)
    known = curve.dropna(subset=[x, y])
    if known.empty:
        return note(ax, "needs safe and unsafe images")
    ax.fill_between(known[x], known[f"{y}_low"], known[f"{y}_high"], color=LIGHT, lw=0, label="95% interval")
    ax.plot(known[x], known[y], color=DARK, lw=1.8)
    ax.legend(loc="lower left" if x == "recall" else "lower right", fontsize="small")
    return ax


@styled
def plot_detectors(curves: Mapping[str, pd.DataFrame], *, title: str | None = None, ax: Axes | None = None) -> Axes:
    """ROC curves of detectors, each of `evaluate.threshold_curve`, with bands; logarithmic, as the left end matters."""
    ax, looks = new_axes(ax, (7, 4.6)), class_looks(list(curves))
    for name, curve in curves.items():
        known = curve.dropna(subset=["recall", "fpr"])
        x, band = known["fpr"].clip(lower=_LEAST), (known["recall_low"], known["recall_high"])
        ax.fill_between(x, *band, color=looks[name]["color"], alpha=0.12, lw=0, step="post")
        ax.step(x, known["recall"], where="post", lw=1.8, label=shown(name), markevery=0.15, ms=5, **looks[name])
    ax.set(xscale="log", xlim=(_LEAST, 1), ylim=(0, 1.02), title=title or "ROC")
    ax.set(xlabel=_RATES["fpr"], ylabel=_RATES["recall"])
    ax.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
    ax.yaxis.set_major_formatter(PER_CENT)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small", title="with 95% band")
    return ax


@styled
def plot_week(week: pd.DataFrame, *, title: str | None = None, ax: Axes | None = None) -> Axes:
    """How many pictures wait at the end of each hour of `evaluate.review_week`, how many arrive and are looked at."""
    ax, days = new_axes(ax, (8, 3.4)), (week.index + 1) / 24
    ax.fill_between(days, week["backlog"], color=LIGHT, lw=0, label="waiting")
    ax.plot(days, week["arrived"], color=INK, lw=1, label="arriving an hour")
    ax.plot(days, week["reviewed"], color=ACCENT, lw=1.4, ls="--", label="looked at an hour")
    ax.set(xlabel="day", ylabel="pictures", xlim=(0, days.max()), ylim=(0, None), title=title or "The review queue")
    ax.yaxis.set_major_formatter("{x:,.0f}")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
    return ax


@styled
def plot_threshold(curve: pd.DataFrame, point: pd.Series) -> Figure:
    """A row of `at_threshold`: where it lies on the rates of `threshold_curve`, and what it does at its prevalence."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
    for name, label, colour, dash in (("recall", "unsafe flagged", DARK, "-"), ("fpr", "safe flagged", ACCENT, "--")):
        band = curve[f"{name}_low"], curve[f"{name}_high"]
        left.fill_between(curve["threshold"], *band, color=colour, alpha=0.15, lw=0)
        left.plot(curve["threshold"], curve[name], color=colour, ls=dash, lw=1.8, label=label)
    low, high = point.get("review_from", point["threshold"]), min(point["threshold"], 1.0)
    left.axvline(high, color=INK, lw=1.5)
    left.axvspan(low, high, facecolor=MID, alpha=0.25, label="to a person" if low < high else None)
    left.set(xlabel="threshold (probability of unsafe)", ylabel="share of images flagged", xlim=(0, 1), ylim=(0, 1.02))
    left.yaxis.set_major_formatter(PER_CENT)
    left.set_title(f"Threshold {point['threshold']:.3f}" + (f", a person from {low:.3f}" if low < high else ""))
    left.legend(loc="center", fontsize="small")
    columns = ("flagged", "reviewed", "missed", "false_alarms")
    names = ("flagged", "to a person", "unsafe, missed", "safe, flagged")
    for column, name, colour in zip(columns, names, (DARK, MID, LIGHT, ACCENT), strict=True):
        if column == "reviewed" and low >= high:
            continue
        value, *ends = (point[f"{column}{end}"] for end in ("", "_low", "_high"))
        place = right.barh(name, value, height=0.6, color=colour)[0].get_y() + 0.3
        right.hlines(place, *ends, color=INK, lw=1.5)
        text = "–" if np.isnan(value) else " {:,.0f} ({:,.0f}–{:,.0f})".format(value, *ends)
        right.text(np.fmax(value, ends[1]), place, text, va="center")
    right.invert_yaxis()
    right.margins(x=0.3)
    right.xaxis.set_major_formatter("{x:,.0f}")
    right.set(xlabel="images expected in 100,000 uploads (with 95% interval)")
    share = "{precision:.1%} ({precision_low:.1%} to {precision_high:.1%})".format(**point)
    share = "–" if np.isnan(point["precision"]) else share
    right.set_title(f"{100 * point['prevalence']:.4g}% of uploads unsafe: precision {share}", fontsize=10)
    return fig


@styled
def plot_slices(slices: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """The 15 worst of `evaluate.accuracy_by_slice` with intervals; filled where chance is unlikely (`q` ≤ 0.05)."""
    table = slices[slices["p"].notna()].head(15)
    names = [f"{row.attribute}: {row.value}  ({row.images:,})" for row in table.itertuples()]
    table, ax = table.assign(name=names, value=table["accuracy"]), new_axes(ax, (7.5, 1.6 + 0.34 * len(table)))
    title = f"{len(table)} worst of {len(slices)} slices"
    plot_intervals(table, xlabel="share of images right", title=title, write=False, ax=ax)
    if table.empty:
        return note(ax, "no slice has enough images")
    places, sure = np.arange(len(table)), table["q"].le(0.05).to_numpy()
    ax.plot(table["value"][sure], places[sure], "o", color=ACCENT, label="differs (q ≤ 0.05)")
    ax.plot(table["value"][~sure], places[~sure], "o", color=DARK, mfc="white", label="may be chance")
    ax.plot(table["rest"], places, "|", color=INK, ms=12, label="all other images")
    ax.xaxis.set_major_formatter(PER_CENT)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
    return ax


@styled
def plot_robustness(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Accuracy (`value`, `low`, `high`) by `change` and `level`, in their order; that of "none" as a dotted line."""
    changed, names = table["change"].ne("none"), (table["change"] + " " + table["level"].astype(str)).str.strip()
    if not changed.any():
        raise ValueError("Expected at least one change besides 'none'. Received: none; measure some first.")
    shares = table.assign(name=names)[changed]
    ax = plot_intervals(shares, xlabel="share of images right", title="Changed pictures", ax=ax)
    for value in table["value"][~changed]:
        ax.axvline(value, color=INK, lw=1, ls=":", label="untouched")
    return ax


@styled
def plot_score_histogram(score: pd.Series, *, points: pd.DataFrame | None = None, ax: Axes | None = None) -> Axes:
    """How many files have which score, on a logarithmic count axis, with the thresholds of `operating_points`."""
    ax, scored = new_axes(ax, (8, 3.4)), score.dropna()
    ax.set(xlabel="unsafe score (sum of the unsafe classes' probabilities)", ylabel="files (log)", xlim=(0, 1))
    ax.set_title(f"Scores of {len(scored):,} files")
    if not len(scored):
        return note(ax, "no file was scored")
    ax.hist(scored, bins=np.linspace(0, 1, 41), color=MID, edgecolor="white", lw=0.5)
    ax.set(yscale="log", ylim=(0.7, None))
    plain_log_ticks(ax.yaxis)
    if points is not None:
        looks = itertools.cycle(["-", "--", ":", "-."])
        for (threshold, rows), look in zip(points.groupby("threshold"), looks, strict=False):
            wishes = rows["wish"] + np.where(rows.get("note", "") == "", "", " (no promise)")
            ax.axvline(threshold, color=ACCENT, lw=1.5, ls=look, label=f"{threshold:.3g}: {', '.join(wishes.unique())}")
        ax.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8, title="threshold")
    return ax


@styled
def plot_parity(table: pd.DataFrame) -> Figure:
    """Size, time and disagreement of each format of `export.export`, a panel each."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 1.5 + 0.42 * len(table)), sharey=True)
    times, apart = table["ms_per_image"], table["largest_difference"]
    changed = [f"{d:.0e}, {c} changed" if d else "0" for d, c in zip(apart, table["changed_argmax"], strict=True)]
    panels = (
        ("Size, MB", table["size_mb"], table["size_mb"].map("{:,.0f}".format)),
        ("Time, ms an image", times.fillna(0), times.map("{:,.0f}".format).where(times.notna(), "not measured")),
        ("Largest difference of a probability", apart.clip(lower=_FLOOR), changed),
    )
    for ax, (title, values, texts) in zip(axes, panels, strict=True):
        ax.barh(table.index, values, color=LIGHT, height=0.6)
        for place, text in enumerate(texts):
            ax.annotate(text, (0.02, place), xycoords=("axes fraction", "data"), va="center")
        ax.set_title(title)
    xlabel = f"orange: tolerance; changed: another answer, of {table['pictures'].iloc[0]}"
    axes[2].set(xscale="log", xlim=(_FLOOR, 1), xlabel=xlabel)
    plain_log_ticks(axes[2].xaxis, subs=(1,))
    limits = table["tolerance"].where(table["tolerated"].eq("largest_difference"))
    axes[2].plot(limits, np.arange(len(table)), "|", color=ACCENT, ms=16, mew=2)
    axes[0].invert_yaxis()
    return figure
