"""Figures carry the numbers that they were given: texts and arrays are read, never pixels."""

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from nsfwlib import plots

NAMES = ["drawings", "hentai", "neutral"]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def images():
    return pd.DataFrame({
        "path": [f"{i}.jpg" for i in range(6)],
        "given_label": ["drawings", "drawings", "drawings", "hentai", "hentai", "neutral"],
        "split": ["train", "val", "test", "train", "", "test"],
        "width": [100, 200, 300, 400, 0, 600],
        "height": [100, 100, 300, 200, 0, 600],
        "format": ["JPEG", "PNG", "JPEG", "GIF", "", "JPEG"],
        "problem": ["", "", "", "", "truncated", ""],
    })  # fmt: skip


def texts(ax):
    return [t.get_text() for t in ax.texts]


def test_counts_show_every_image_of_every_class_once(images):
    ax = plots.plot_counts(images)
    assert sum(bar.get_width() for bar in ax.patches) == len(images)
    assert [t.strip() for t in texts(ax)] == ["3", "2", "1"]


def test_problems_name_the_reason_and_the_class(images):
    ax = plots.plot_problems(images)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["truncated  (1)"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["hentai"]


def test_problems_of_a_clean_folder_say_none(images):
    assert texts(plots.plot_problems(images[images["problem"].eq("")])) == ["none"]


def test_confusion_writes_the_share_of_each_row_and_the_support(images):
    ax = plots.plot_confusion(np.array([[9, 1, 0], [0, 4, 0], [0, 0, 0]]), class_names=NAMES)
    assert texts(ax) == ["90%", "10%", "·", "·", "100%", "·", "–", "–", "–"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["drawings\n10", "hentai\n4", "neutral\n0"]


def test_drawing_leaves_the_readers_settings_alone(images):
    before = dict(mpl.rcParams)
    plots.plot_counts(images)
    assert dict(mpl.rcParams) == before
