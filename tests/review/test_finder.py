"""From a number to its pictures: what the browser says was hit, and what the grid then shows."""

import numpy as np
import pandas as pd
import pytest
from test_grid import NAMES, write_pictures

from nsfwlib.evaluate import audit_files
from nsfwlib.labels import journal
from nsfwlib.review import PictureFinder

VIEWS = {"matrix": ("given", "predicted"), "score": "score", "source": "source", "map": ("x", "y")}


def make(folder, *, n=24, views=VIEWS, change=None, **options):
    rng = np.random.default_rng(0)
    table = write_pictures(folder / "data", n).assign(split="train", x=rng.normal(size=n), y=rng.normal(size=n))
    table["source"] = np.where(np.arange(n) < 5, "old", "new")
    table.loc[::3, "score"] *= -1  # the label is likelier
    table = change(table) if change else table
    predicted = table["suggested"].where(table["score"].gt(0), table["given"])
    finder = PictureFinder(table, folder / "decisions.csv", folder / "data", class_names=NAMES, views=views, **options)
    return finder, table.assign(predicted=predicted)


def hit(finder, *marks, event="plotly_click"):
    """What the browser sends when these marks, each (number of its trace, place in it), are hit."""
    points = {"trace_indexes": [trace for trace, _ in marks], "point_indexes": [place for _, place in marks]}
    points |= dict.fromkeys(["xs", "ys"], [0] * len(marks))
    finder.figure._js2py_pointsCallback = {"event_type": event, "points": points}


def show(finder, title):
    finder.view.value = VIEWS[title]


def paths(finder):
    return set(finder.grid.session.queue["path"])


def test_a_cell_of_the_matrix_opens_the_pictures_in_it(tmp_path):
    finder, table = make(tmp_path)
    assert paths(finder) == set()
    hit(finder, (0, [0, 1]))
    assert paths(finder) == set(table.query("given == 'cat' and predicted == 'dog'")["path"]) != set()
    hit(finder, (0, [1, 1]))
    assert paths(finder) == set(table.query("given == 'dog' and predicted == 'dog'")["path"]) != set()


def test_a_lasso_across_classes_opens_the_pictures_inside(tmp_path):
    finder, table = make(tmp_path)
    show(finder, "map")
    hit(finder, (0, 2), (1, 0), (1, 3), event="plotly_selected")
    cats, dogs = (table.loc[table["given"].eq(name), "path"].tolist() for name in NAMES)
    assert paths(finder) == {cats[2], dogs[0], dogs[3]}
    before = finder.grid.session
    hit(finder, event="plotly_selected")
    assert finder.grid.session is before, "an empty lasso leaves what is shown"


def test_bins_and_bars_hold_every_picture_once_with_those_apart_where_label_and_prediction_differ(tmp_path):
    finder, table = make(tmp_path, change=lambda rows: rows.assign(score=rows["score"].where(rows.index > 0, np.inf)))
    for title, axis in (("score", "x"), ("source", "y")):
        show(finder, title)
        agree, differ = finder.figure.data
        drawn = pd.concat([pd.Series(trace[axis]) for trace in (agree, differ)])
        assert sorted(drawn) == sorted(table[title].replace(np.inf, np.nan).dropna())
        hit(finder, (1, 0), (1, 2))
        some = table[table["given"].ne(table["predicted"]) & table[title].ne(np.inf)].iloc[[0, 2]]
        assert paths(finder) == set(some["path"]) and [*differ[axis][[0, 2]]] == [*some[title]]


def test_the_filter_counts_and_shows_what_it_lets_through(tmp_path):
    finder, table = make(tmp_path)
    finder.menus["source"].value = "old"
    finder.path.value = "CAT/"
    wanted = table[table["source"].eq("old") & table["path"].str.startswith("cat/")]
    assert np.sum(finder.figure.data[0].text) == len(wanted) > 0 and f"{len(wanted)} of 24" in finder.said.value
    finder.everything.click()
    assert paths(finder) == set(wanted["path"])
    finder.path.value, finder.score.value = "", (0.5, 0.9)
    assert finder.left["score"].between(0.5, 0.9).all() and len(finder.left) < 5


def test_a_menu_says_so_where_it_lets_everything_through_as_it_did_at_first(tmp_path):
    finder, table = make(tmp_path)
    menu = finder.menus["source"]
    for index in (2, 0):
        menu.index = index
    assert menu.index == 0 and menu.label == "source: any" and len(finder.left) == len(table)


@pytest.mark.parametrize("title", VIEWS)
def test_a_filter_that_lets_nothing_through_leaves_an_empty_figure(tmp_path, title):
    finder, _ = make(tmp_path)
    show(finder, title)
    finder.path.value = "nowhere"
    finder.everything.click()
    assert paths(finder) == set() and "0 of 24" in finder.said.value
    finder.path.value = ""
    assert len(finder.left) == 24


def test_scores_that_nobody_has_are_no_histogram(tmp_path):
    finder, _ = make(tmp_path, change=lambda rows: rows.assign(score=np.nan))
    show(finder, "score")
    finder.everything.click()
    assert len(paths(finder)) == 24, "the slider holds nothing back where it was not touched"


def test_the_filter_knows_decisions_as_they_are_taken_here_and_elsewhere(tmp_path):
    finder, table = make(tmp_path)
    finder.everything.click()
    finder.grid.session.decide(table["path"][0], "drop")
    line = {"sha256": table["sha256"][1], "path": table["path"][1], "decision": "drop", "reviewer": "Bea"}
    journal.append_decisions(tmp_path / "decisions.csv", line)
    finder.menus["decision"].value = "drop"
    assert set(finder.left["path"]) == {*table["path"][:2]}
    finder.menus["decision"].value = ""
    assert len(finder.left) == len(table) - 2


def test_the_test_split_is_neither_counted_nor_shown(tmp_path):
    finder, table = make(tmp_path, change=lambda rows: rows.assign(split=np.where(rows.index % 4, "val", "test")))
    finder.everything.click()
    assert paths(finder) == set(table.loc[table["split"].eq("val"), "path"])


def test_the_images_table_itself_with_labels_for_given_is_looked_at(tmp_path):
    images = write_pictures(tmp_path / "data", 24).rename(columns={"given": "given_label"}).assign(split="train")
    finder, _ = make(
        tmp_path, change=lambda rows: rows.assign(given_label=rows["given"], suggested="", score=np.nan), images=images
    )
    show(finder, "map")
    hit(finder, (0, 1), event="plotly_selected")
    assert paths(finder) == {"cat/2.jpg"}
    finder.grid.session.decide("cat/2.jpg", "dog")
    assert audit_files.blind_answers(tmp_path / "decisions.csv", NAMES).empty, "the label was seen"


def test_a_view_of_a_column_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="colour"):
        make(tmp_path, views={"by colour": "colour"})
