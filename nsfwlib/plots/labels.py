"""How suspect are the labels, and who is taken for whom?"""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from nsfwlib.plots.style import DARK, INK, LIGHT, new_axes, note, plain_log_ticks, shown, styled


@styled
def plot_noise_matrix(noise: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Which label was given to which class: estimated numbers of images, wrong ones shaded.

    Args:
        noise: square table of numbers, rows given labels, columns the classes believed true.
    """
    values = noise.to_numpy(dtype=float)
    off = ~np.eye(len(noise), dtype=bool)
    k, total = len(noise), values.sum()
    ax = new_axes(ax, (2.5 + 0.85 * k, 1.7 + 0.72 * k))
    texts = np.array([[f"{v:,.0f}" if v >= 0.5 else "·" for v in row] for row in values], dtype=object)
    shade = np.where(off, values, 0.0)
    names = {"xticklabels": noise.columns.map(shown), "yticklabels": noise.index.map(shown)}
    sns.heatmap(
        shade, annot=texts, fmt="", cmap="Oranges", vmin=0, vmax=max(shade.max(initial=0) * 1.25, 1),
        cbar=False, linewidths=1.5, square=True, ax=ax, **names,
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
def plot_scores(issues: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Suspicion of every label, most suspect first, with the cut.

    Args:
        issues: `score` (higher is more suspect) and `is_issue`, as from `labels.find_label_issues`.
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
        ax.legend(loc="upper right")
    ax.set(xscale="log", xlim=(1, len(score)))
    plain_log_ticks(ax.xaxis)
    return ax
