"""What would another threshold cost? Sliders, and the curves that follow them."""

import io
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np

from nsfwlib.evaluate import at_threshold, threshold_curve
from nsfwlib.plots import plot_threshold


def threshold_explorer(
    unsafe: np.ndarray, score: np.ndarray, *, threshold: float, prevalence: float, review_from: float, **sample: Any
) -> ipywidgets.VBox:
    """Sliders for both thresholds and prevalence over the curves and the counts in 100,000; drawn anew as they move.

    From `review_from` up to `threshold` a person looks; `sample`: `groups`, `weights`, as in `evaluate.at_threshold`.
    """
    curve = threshold_curve(unsafe, score, **sample)
    wide = {"layout": {"width": "420px"}, "style": {"description_width": "80px"}, "continuous_update": False}
    sliders = [
        ipywidgets.FloatSlider(threshold, min=0, max=1, step=0.01, description="threshold", **wide),
        ipywidgets.FloatLogSlider(prevalence, min=-4, max=-0.3, step=0.1, description="prevalence", **wide),
        ipywidgets.FloatSlider(review_from, min=0, max=1, step=0.01, description="a person from", **wide),
    ]
    picture = ipywidgets.Image(format="png")  # an output widget would keep headless runs waiting

    def draw(_: Any = None) -> None:
        at, rare, person = (slider.value for slider in sliders)
        point = at_threshold(unsafe, score, at, prevalence=rare, review_from=person, draws=1000, **sample)
        figure, png = plot_threshold(curve, point.iloc[0]), io.BytesIO()
        figure.savefig(png, format="png", dpi=90, bbox_inches="tight")
        plt.close(figure)
        picture.value = png.getvalue()

    for slider in sliders:
        slider.observe(draw, "value")
    draw()
    return ipywidgets.VBox([*sliders, picture])
