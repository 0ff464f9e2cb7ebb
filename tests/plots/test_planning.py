"""Figures of comparing detectors and planning a deployment."""

import numpy as np
import pandas as pd

from nsfwlib import evaluate, plots


def test_each_detector_has_a_curve_of_its_own_and_the_left_end_is_not_hidden(rng):
    unsafe = rng.random(300) < 0.4
    curves = {
        name: evaluate.threshold_curve(unsafe, unsafe * skill + rng.random(300))
        for name, skill in (("good", 0.9), ("_poor", 0.1))
    }
    ax = plots.plot_detectors(curves, title="300 pictures")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["good", " _poor"]
    assert ax.get_xscale() == "log" and ax.get_xlim() == (1e-3, 1)
    good, poor = (line.get_ydata() for line in ax.get_lines())
    assert np.allclose(good, curves["good"]["recall"]) and len(poor) == len(curves["_poor"])
    assert len(ax.collections) == 2, "bands"


def test_a_week_of_the_queue_is_drawn_hour_by_hour():
    week = pd.DataFrame({"arrived": [5.0] * 48, "reviewed": [4.0] * 48, "backlog": np.arange(48.0)})
    ax = plots.plot_week(week)
    arriving, looked = ax.get_lines()
    assert arriving.get_xdata()[-1] == 2 and (looked.get_ydata() == 4).all()
