"""Which pictures are behind a number? Figures to click, a filter over all pictures, and the grid on what was hit.

Plotly draws the figures and says what was hit, from its own wheel: nothing is asked of the network. What is chosen is
reviewed in a `ReviewGrid`, by the rules of `ReviewSession`.
"""

from collections.abc import Mapping, Sequence
from functools import partial, reduce
from operator import getitem
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd
from pandas.api.types import is_float_dtype

from nsfwlib.labels import ACTIONS, Replay
from nsfwlib.review.grid import ReviewGrid
from nsfwlib.review.session import ReviewSession

FILTERS = ("given", "predicted", "split", "source", "decision")
MOST_BARS, BINS = 30, 40
OTHERS, DIFFER = "#4f93c0", "#c8500a"
CLEAR = "rgba(0, 0, 0, 0)"  # the page behind may be light or dark
LAYOUT = {
    "height": 420,
    "margin": {"l": 10, "r": 40, "t": 34, "b": 10}, "barmode": "stack",
    "paper_bgcolor": CLEAR, "plot_bgcolor": CLEAR, "font": {"color": "#7b8591"}, "bargap": 0.08,
    "legend": {"orientation": "h", "y": 1, "yanchor": "bottom"}, "modebar": {"orientation": "v"},
}  # fmt: skip
Marks = tuple[dict[str, Any], list[Any]]  # a trace for plotly, and the rows of the table that each of its marks holds


class PictureFinder(ipywidgets.VBox):
    """Figures of all pictures to click, a filter over them, and the review grid on the pictures that were hit.

    Args:
        pictures: one row a picture, with the columns of a `ReviewSession`'s queue and those that `views` name. Rows
            of the test split are left out: they inform no choice.
        data_dir: where the paths lie.
        views: title → a column, or a pair of them. Floats make a histogram, other values bars, orange where `predicted`
            is not the label; in a pair, floats make a map to draw a lasso in, other values a matrix. `predicted` is
            the suggestion where the score is above 0 or there is no label, else the label; unless `pictures` has it.
        options: of `ReviewGrid`; `journal`, `class_names`, `reviewer` and `images` are those of `ReviewSession`.

    `figure` draws `left`, the rows that the filter lets through; `grid` holds those of them that were hit. A ValueError
    where `pictures` lacks a column that a view names, or that a queue needs.
    """

    def __init__(
        self,
        pictures: pd.DataFrame,
        journal: Path,
        data_dir: Path,
        *,
        class_names: Sequence[str],
        views: Mapping[str, str | tuple[str, str]],
        reviewer: str = "",
        images: pd.DataFrame | None = None,
        **options: Any,
    ) -> None:
        pictures = pictures.fillna({"given": "", "suggested": ""})
        # A line of the journal without a suggestion counts as a blind answer, and here the label is shown.
        pictures["suggested"] = pictures["suggested"].where(pictures["suggested"].ne(""), pictures["given"])
        if "predicted" not in pictures:
            likelier = pictures["score"].gt(0) | pictures["given"].eq("")
            pictures["predicted"] = pictures["suggested"].where(likelier, pictures["given"])
        wanted = {str(name) for columns in views.values() for name in np.atleast_1d(columns)}
        if missing := sorted(wanted - {*pictures}):
            raise ValueError(f"views should name columns of pictures, {[*pictures]}. Received also: {missing}")
        inside = pictures["split"].ne("test") if "split" in pictures else slice(None)
        self.left = self.pictures = pictures[inside].reset_index(drop=True)
        about = {"class_names": class_names, "reviewer": reviewer, "images": images}
        self.session_of = partial(ReviewSession, journal=journal, **about)
        self.grid = ReviewGrid(self.session_of(self.pictures[:0]), data_dir, **options)
        self._replay, self._rows_of, self._hits = Replay(journal), (), []
        self.view = ipywidgets.Dropdown(options=[*views.items()], description="Figure")
        self.path = ipywidgets.Text(placeholder="part of the path", continuous_update=False, layout={"width": "180px"})
        values = {name: {*self.pictures.get(name, ())} for name in FILTERS} | {"decision": {*ACTIONS, *class_names}}
        self.menus = {}
        for name, some in values.items():
            any_or_none = [(f"{name}: any", ...), (f"{name}: none", "")]  # not None: a menu is blank then
            if len(some) > 1:
                named = [(each, each) for each in sorted(some - {""})]
                self.menus[name] = ipywidgets.Dropdown(options=any_or_none + named, layout={"width": "150px"})
        low, high = np.nanmin([0.0, *self.pictures["score"]]), np.nanmax([1.0, *self.pictures["score"]])
        slider = {"min": low, "max": high, "step": 0.01, "continuous_update": False}
        self.score = ipywidgets.FloatRangeSlider(value=(low, high), description="score", **slider)
        self.said, self.everything = ipywidgets.HTML(), ipywidgets.Button(description="Show these")
        filters = [self.path, *self.menus.values(), self.score]
        for control in (self.view, *filters):
            control.observe(lambda _: self._draw(), "value")
        self.everything.on_click(lambda _: self.show(np.arange(len(self.left))))
        self.bar = ipywidgets.HBox([*filters, self.everything, self.said], layout={"flex_flow": "wrap"})
        super().__init__(_dom_classes=["nsfw-finder"])
        self._draw()

    def __repr__(self) -> str:
        return f"PictureFinder({len(self.pictures):,} pictures)"

    def show(self, rows: np.ndarray) -> None:
        """Open the grid on these rows of `left`."""
        self.grid.show(self.session_of(self.left.iloc[np.unique(rows)]))

    def _draw(self) -> None:
        """A figure of what the filter lets through; a new one, for the browser keeps the lasso of the old."""
        from plotly.graph_objects import FigureWidget  # takes a second, for this alone

        self._replay.catch_up()
        known = self.pictures.assign(decision=self.pictures["sha256"].map(self._replay.decision))
        inside = known["path"].str.contains(self.path.value, case=False, regex=False)
        inside &= known["score"].between(*self.score.value) | (self.score.value == (self.score.min, self.score.max))
        for name, menu in self.menus.items():
            inside &= known[name].eq(menu.value) if menu.index else True
        self.left = known[inside].reset_index(drop=True)
        self.said.value = f"{len(self.left):,} of {len(known):,}. Click a cell or a bar, or draw a lasso."
        traces, self._rows_of = zip(*_marks(self.left, self.view.value), strict=True)
        self.figure = FigureWidget(traces, LAYOUT | _layout(traces[0], self.view.value))
        for trace in self.figure.data:
            trace.on_click(self._hit)
            trace.on_selection(self._hit)
        for old in self.children[1:2]:
            old.close()
        self.children = [self.view, self.figure, self.bar, self.grid]

    def _hit(self, _: Any, points: Any, __: Any) -> None:
        """Plotly calls this for each trace in turn, with what of it was hit, be it nothing."""
        marks = self._rows_of[points.trace_index]
        places = map(np.ravel, points.point_inds)  # of a matrix, row and column
        self._hits += [np.atleast_1d(reduce(getitem, place, marks)) for place in places]
        if points.trace_index == len(self._rows_of) - 1:
            hits, self._hits = self._hits, []
            if hits:
                self.show(np.concatenate(hits))


def _marks(table: pd.DataFrame, columns: str | tuple[str, str]) -> list[Marks]:
    """What to draw of these columns, and which rows of the table each mark holds."""
    known = table[[*np.atleast_1d(columns)]]
    floats = all(map(is_float_dtype, known.dtypes))
    if isinstance(columns, tuple):
        return _map(table, *columns) if floats else _matrix(table, *columns)
    values = table[columns].where(np.isfinite(table[columns])) if floats else table[columns].astype(str)
    common = values.dropna() if floats else values[values.ne("")].value_counts().index[:MOST_BARS]
    differ, drawn = table["given"].ne(table["predicted"]), []
    for which, colour, name in ((~differ, OTHERS, "label and prediction agree"), (differ, DIFFER, "they differ")):
        rows = np.flatnonzero(which & values.isin(common))
        trace = {"type": "histogram", "x" if floats else "y": values.iloc[rows], "nbinsx": BINS, "name": name}
        drawn.append((trace | {"marker": {"color": colour}}, rows))
    return drawn


def _map(table: pd.DataFrame, across: str, up: str) -> list[Marks]:
    from nsfwlib.plots import class_looks  # with matplotlib, which a map alone is worth

    drawn = []
    for i, (name, look) in enumerate(class_looks(sorted({*table["given"]}) or [""]).items()):
        rows = np.flatnonzero(table["given"].eq(name) & table[across].notna())
        marker = {"color": look["color"], "symbol": i % 8, "size": 7}
        places = {"x": table[across].iloc[rows], "y": table[up].iloc[rows]}
        drawn.append(({"type": "scatter", "mode": "markers", "name": name, "marker": marker, **places}, rows))
    return drawn


def _matrix(table: pd.DataFrame, down: str, across: str) -> list[Marks]:
    names, at = [sorted({*table[name]}) for name in (down, across)], table.groupby([down, across]).indices
    rows = [[at.get((one, other), []) for other in names[1]] for one in names[0]]
    counts = [[len(cell) for cell in line] for line in rows]
    look = {"colorscale": "Blues", "showscale": False, "texttemplate": "%{text:,}", "xgap": 2, "ygap": 2}
    look["hovertemplate"] = f"{down} %{{y}}, {across} %{{x}}: %{{text:,}}<extra></extra>"
    return [({"type": "heatmap", "z": np.log1p(counts), "text": counts, "x": names[1], "y": names[0], **look}, rows)]


def _layout(trace: dict[str, Any], columns: str | tuple[str, str]) -> dict[str, Any]:
    """Axes that fit what is drawn: names from the top, no numbers beside a map, where they mean nothing."""
    on_map, of_cells, one = trace["type"] == "scatter", trace["type"] == "heatmap", isinstance(columns, str)
    named = "y" in trace and not on_map
    titles = (columns, "pictures") if isinstance(columns, str) else columns
    axis = {"visible": not on_map, "gridcolor": "rgba(128, 128, 128, 0.2)", "autorange": True, "type": "linear"}
    from_top = {"type": "category", "autorange": "reversed", "categoryorder": "total descending" if one else "trace"}
    x, y = titles[::-1] if named else titles
    return {
        "xaxis": axis | {"title": x} | ({"type": "category"} if of_cells else {}),
        "yaxis": axis | {"title": y} | (from_top if named else {}),
        # What hangs over a map is told after the lasso and takes its place: the browser sends the last event only.
        **{"dragmode": "lasso" if on_map else "zoom", "hovermode": False if on_map else "closest"},
    }
