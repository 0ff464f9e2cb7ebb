"""Which pictures are behind a number? Figures to click, a filter over all pictures, and the grid on what was hit.

Plotly draws the figures and says what was hit, from its own wheel: nothing is asked of the network. What is chosen is
reviewed in a `ReviewGrid`, by the rules of `ReviewSession`.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import partial, reduce
from operator import getitem
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd
from pandas.api.types import is_float_dtype

from nsfwlib.labels import ACTIONS, Replay
from nsfwlib.plots import class_looks
from nsfwlib.review.grid import ReviewGrid
from nsfwlib.review.session import ReviewSession

FILTERS = ("given", "predicted", "split", "source", "decision")
MOST_BARS, BINS = 30, 40
MANY = 10_000  # points; more than that the graphics card draws
OTHERS, DIFFER = "#4f93c0", "#c8500a"
CLEAR = "rgba(0, 0, 0, 0)"  # the page behind may be light or dark
LAYOUT = {
    "height": 420,
    "margin": {"l": 10, "r": 10, "t": 34, "b": 10}, "barmode": "stack",
    "paper_bgcolor": CLEAR, "plot_bgcolor": CLEAR, "font": {"color": "#7b8591"}, "bargap": 0.08,
    "legend": {"orientation": "h", "y": 1, "yanchor": "bottom"}, "modebar": {"orientation": "v"},
}  # fmt: skip
Marks = tuple[dict[str, Any], list[Any]]  # a trace for plotly, and the rows of the table that each of its marks holds


class PictureFinder(ipywidgets.VBox):
    """Figures of all pictures to click, a filter over them, and the review grid on the pictures that were hit.

    Args:
        pictures: one row a picture, with the columns of a `ReviewSession`'s queue and those that `views` name. Rows
            of the test split are left out: they inform no choice.
        journal: the decisions journal.
        data_dir: where the paths lie.
        class_names: the classes a picture can be given.
        views: title → a column, or a pair of them. Floats make a histogram, other values bars, orange where `predicted`
            is not the label; in a pair, floats make a map to draw a lasso in, other values a matrix. `predicted` is
            the suggestion where the score is above 0 or there is no label, else the label; unless `pictures` has it.
        reviewer: a name that goes with each decision.
        images: the images table, as for `ReviewSession`.
        options: of `ReviewGrid`.

    `figure` draws `left`, the rows that the filter lets through; `grid` holds those of them that were hit.

    Raises:
        ValueError: `pictures` lacks a column that a view names, or that a queue needs.
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
        from plotly.graph_objects import FigureWidget  # takes a second, for this alone

        likelier = pictures["score"].gt(0) | pictures["given"].fillna("").eq("")
        pictures = pictures.assign(
            **{"predicted": pictures["suggested"].where(likelier, pictures["given"])} | {**pictures}
        )
        wanted = {str(name) for columns in views.values() for name in np.atleast_1d(columns)}
        if missing := sorted(wanted - {*pictures}):
            raise ValueError(f"views should name columns of pictures, {[*pictures]}. Received also: {missing}")
        inside = pictures["split"].ne("test") if "split" in pictures else slice(None)
        self.left = self.pictures = (
            pictures[inside].fillna({"given": "", "suggested": "", "predicted": ""}).reset_index(drop=True)
        )
        about = {"class_names": class_names, "reviewer": reviewer, "images": images}
        self.session_of = partial(ReviewSession, journal=journal, **about)
        self.grid = ReviewGrid(self.session_of(self.pictures[:0]), data_dir, **options)
        self._replay, self._rows_of, self._hits = Replay(journal), [], []
        self.view = ipywidgets.Dropdown(options=[*views.items()], description="Figure")
        self.path = ipywidgets.Text(placeholder="part of the path", continuous_update=False, layout={"width": "180px"})
        values = {name: {*self.pictures[name]} for name in FILTERS if name in self.pictures}
        values["decision"] = {*ACTIONS, *class_names}
        self.menus = {name: _menu(name, some) for name, some in values.items() if len(some) > 1}
        low, high = np.nanmin([0.0, *self.pictures["score"]]), np.nanmax([1.0, *self.pictures["score"]])
        slider = {"min": low, "max": high, "step": 0.01, "continuous_update": False}
        self.score = ipywidgets.FloatRangeSlider(value=(low, high), description="score", **slider)
        self.said, self.everything = ipywidgets.HTML(), ipywidgets.Button(description="Show these")
        filters = [self.path, *self.menus.values(), self.score]
        for control in (self.view, *filters):
            control.observe(lambda _: self._draw(), "value")
        self.everything.on_click(lambda _: self.show(np.arange(len(self.left))))
        traces = [trace for trace, _ in self._marks_left()]
        # It is shown as it was made: what is changed before it is seen is lost.
        self.figure = FigureWidget(traces, LAYOUT | _layout(traces[0], self.view.value))
        self._listen()
        bar = ipywidgets.HBox([*filters, self.everything, self.said], layout={"flex_flow": "wrap"})
        super().__init__([self.view, self.figure, bar, self.grid])

    def show(self, rows: np.ndarray) -> None:
        """Open the grid on these rows of `left`."""
        self.grid.show(self.session_of(self.left.iloc[np.unique(rows)]))

    def _marks_left(self) -> list[Marks]:
        """What to draw of what the filter lets through."""
        self._replay.catch_up()
        known = self.pictures.assign(decision=self.pictures["sha256"].map(self._replay.decision))
        inside = known["path"].str.contains(self.path.value, case=False, regex=False)
        inside &= known["score"].between(*self.score.value) | (self.score.value == (self.score.min, self.score.max))
        for name, menu in self.menus.items():
            inside &= known[name].eq(menu.value) | (menu.value is None)
        self.left = known[inside].reset_index(drop=True)
        self.said.value = f"{len(self.left):,} of {len(known):,}. Click a cell, a bar, a point, or draw a lasso."
        drawn = _marks(self.left, self.view.value)
        self._rows_of = [rows for _, rows in drawn]
        return drawn

    def _draw(self) -> None:
        drawn = self._marks_left()
        self.figure.data = ()
        self.figure.add_traces([trace for trace, _ in drawn])
        self.figure.update_layout(_layout(drawn[0][0], self.view.value))
        self._listen()

    def _listen(self) -> None:
        for trace in self.figure.data:
            trace.on_click(self._hit)
            trace.on_selection(self._hit)

    def _hit(self, _: Any, points: Any, __: Any) -> None:
        """Plotly calls this for each trace in turn, with what of it was hit, be it nothing."""
        marks = self._rows_of[points.trace_index]
        self._hits += [
            reduce(getitem, np.ravel(place), marks) for place in points.point_inds
        ]  # of a matrix [row, column]
        if points.trace_index == len(self._rows_of) - 1:
            hits, self._hits = self._hits, []
            if hits:
                self.show(np.concatenate(hits))


def _menu(name: str, values: Collection[str]) -> ipywidgets.Dropdown:
    options = [(f"{name}: any", None), (f"{name}: none", ""), *((value, value) for value in sorted({*values} - {""}))]
    return ipywidgets.Dropdown(options=options, layout={"width": "150px"})


def _marks(table: pd.DataFrame, columns: str | tuple[str, str]) -> list[Marks]:
    """What to draw of these columns, and which rows of the table each mark holds."""
    known = table[[*np.atleast_1d(columns)]]
    if not np.isfinite(known.select_dtypes(float)).all(axis=1).any():
        return [({"type": "bar"}, [])]
    floats = all(map(is_float_dtype, known.dtypes))
    if isinstance(columns, str):
        return _histogram(table, columns) if floats else _bars(table, columns)
    return _map(table, *columns) if floats else _matrix(table, *columns)


def _layout(trace: dict[str, Any], columns: str | tuple[str, str]) -> dict[str, Any]:
    """Axes that fit what is drawn: names from the top, no numbers beside a map, where they mean nothing."""
    on_map, named = "mode" in trace, trace["type"] == "heatmap" or trace.get("orientation") == "h"
    down, across = (columns, "pictures") if isinstance(columns, str) else columns
    titles = (across, down) if named else (down, across)
    kinds = ("category" if trace["type"] == "heatmap" else "linear", "category" if named else "linear")
    x, y = (
        {"title": title, "type": kind, "visible": not on_map, "gridcolor": "rgba(128, 128, 128, 0.2)"}
        for title, kind in zip(titles, kinds, strict=True)
    )
    y["autorange"] = "reversed" if named else True
    # What hangs over the map would be told after the lasso and take its place: the browser sends the last event only.
    ways = {"dragmode": "lasso", "hovermode": False} if on_map else {"dragmode": "zoom", "hovermode": "closest"}
    return {"xaxis": x | {"autorange": True}, "yaxis": y, **ways}


def _map(table: pd.DataFrame, across: str, up: str) -> list[Marks]:
    kind, drawn = "scattergl" if len(table) > MANY else "scatter", []
    for i, (name, look) in enumerate(class_looks(sorted(set(table["given"]))).items()):
        rows = np.flatnonzero(table["given"].eq(name) & table[across].notna())
        marker = {"color": look["color"], "symbol": i % 8, "size": 7}
        part = {"x": table[across].iloc[rows], "y": table[up].iloc[rows]}
        drawn.append(({"type": kind, "mode": "markers", "name": name, "marker": marker, **part}, [*rows[:, None]]))
    return drawn


def _matrix(table: pd.DataFrame, down: str, across: str) -> list[Marks]:
    names = [sorted(table[name].unique()) for name in (down, across)]
    at = table.groupby([down, across]).indices
    rows = [[at.get((one, other), np.array([], int)) for other in names[1]] for one in names[0]]
    counts = [[len(cell) for cell in line] for line in rows]
    look = {"colorscale": "Blues", "showscale": False, "texttemplate": "%{text:,}", "xgap": 2, "ygap": 2}
    look["hovertemplate"] = f"{down} %{{y}}, {across} %{{x}}: %{{text:,}}<extra></extra>"
    trace = {"type": "heatmap", "z": np.log1p(counts), "text": counts, "x": names[1], "y": names[0]}
    return [({**trace, **look}, rows)]


def _histogram(table: pd.DataFrame, column: str) -> list[Marks]:
    finite = table[column].where(np.isfinite(table[column]))
    bins = pd.cut(finite, BINS)
    return _stacked(table, bins.cat.codes, [b.mid for b in bins.cat.categories], lying=False)


def _bars(table: pd.DataFrame, column: str) -> list[Marks]:
    values = table[column].astype(str)
    common = values[values.ne("")].value_counts().index[:MOST_BARS]
    return _stacked(table, common.get_indexer(values), [*common], lying=True)


def _stacked(table: pd.DataFrame, codes: np.ndarray, places: list[Any], *, lying: bool) -> list[Marks]:
    differ, drawn = table["given"].ne(table["predicted"]), []
    for which, colour, name in ((~differ, OTHERS, "label and prediction agree"), (differ, DIFFER, "they differ")):
        rows = [np.flatnonzero(which & (codes == code)) for code in range(len(places))]
        axes = dict(zip("yx" if lying else "xy", (places, [len(some) for some in rows]), strict=True))
        look = {"orientation": "h" if lying else "v", "marker": {"color": colour}, "name": name}
        drawn.append(({"type": "bar", **axes, **look}, rows))
    return drawn
