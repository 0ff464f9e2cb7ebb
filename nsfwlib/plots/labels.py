"""How suspect are the labels, and who is taken for whom?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from nsfwlib.plots.style import ACCENT, DARK, INK, LIGHT, MID, new_axes, note, styled


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
