"""How do all figures look? Colours that survive greyscale and colour blindness, and one set of matplotlib settings."""

import functools
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

import matplotlib as mpl
import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.font_manager import get_font_names
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

P = ParamSpec("P")
R = TypeVar("R", bound=Artist)
INK = "#1f2a36"  # text and lines
DARK, MID, LIGHT = "#15466e", "#4f93c0", "#b9d6ea"  # three lightness steps of one hue
ACCENT = "#c8500a"  # the one thing to look at
PER_CENT = "{x:.0%}"  # ticks of shares
_WIDE = {"Noto Sans CJK JP", "Noto Sans CJK SC", "Hiragino Sans", "PingFang SC", "Microsoft YaHei", "Malgun Gothic"}
_INKED = ("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color")
_LOOK = sns.axes_style("ticks") | dict.fromkeys(_INKED, INK) | {
    "axes.spines.right": False, "axes.spines.top": False,
    "axes.titlelocation": "left", "axes.titlesize": 11, "axes.titleweight": "bold",
    "figure.constrained_layout.use": True, "figure.dpi": 110, "hatch.linewidth": 0.6, "legend.frameon": False,
    "font.family": ["sans-serif", *sorted(_WIDE & set(get_font_names()))],  # letters that the first font lacks
    "font.size": 10, "text.parse_math": False,  # a class may be called $a$
}  # fmt: skip


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Draw inside the one look, leaving the reader's own settings as they were; no text is taken for a formula."""

    @functools.wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        plt.draw_if_interactive()  # loads the backend: inside the context its interactive mode would be reset
        with mpl.rc_context(_LOOK):
            drawn = draw(*args, **kwargs)
            for text in drawn.findobj(Text):  # on Axes made outside the look, too
                text.set_parse_math(False)
            return drawn

    return inside


def new_axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """The Axes given, or those of a new figure of this size in inches."""
    return plt.subplots(figsize=size)[1] if ax is None else ax


def note(ax: Axes, text: str) -> Axes:
    """Say in the middle of an empty figure why it is empty."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", wrap=True)
    ax.set(xticks=[], yticks=[])
    return ax


def shown(name: str) -> str:
    """A class name as figures write it: without the middle of a long one, a space before `_`, which a legend hides."""
    name = name if len(name) <= 40 else f"{name[:24]}…{name[-15:]}"
    return f" {name}" if name.startswith("_") else name


def plain_log_ticks(axis: Axis, subs: Sequence[float] = (1, 2, 5)) -> None:
    """200, 500, 1,000 in place of powers of ten, which would be formulas; `subs`: multiples of them to name."""
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axis.set_minor_formatter(NullFormatter())
