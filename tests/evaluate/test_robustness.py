"""Each change does what it says and nothing else, and its cost in accuracy is measured."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from nsfwlib import model
from nsfwlib.evaluate import robustness
from nsfwlib.plots import evaluation


@pytest.fixture(scope="module")
def photograph():
    return load_sample_image("china.jpg")


def by_brightness(pixels):
    """A classifier of two classes: bright on the left half or not."""
    left = pixels[:, :, : pixels.shape[2] // 2].mean(axis=(1, 2, 3)) / 255
    return np.stack([left, 1 - left], axis=1)


@pytest.fixture
def halves():
    """Ten pictures bright on the left ("day"), ten on the right ("night"), in several sizes."""
    rng = np.random.default_rng(0)
    pictures = []
    for i in range(20):
        picture = rng.integers(0, 60, (40 + i, 60, 3)).astype(np.uint8)
        picture[:, :30] += np.uint8(190 if i < 10 else 0)
        picture[:, 30:] += np.uint8(0 if i < 10 else 190)
        pictures.append(picture)
    return pictures, ["day"] * 10 + ["night"] * 10


@pytest.mark.parametrize(
    ("change", "level"), [(c, level) for c, levels in robustness.CHANGES.items() for level in levels]
)
def test_every_change_keeps_the_input_size_and_alters_the_picture(photograph, change, level):
    plain, other = (
        robustness.changed(photograph, "none", "", size=64),
        robustness.changed(photograph, change, level, size=64),
    )
    assert other.shape == (64, 64, 3) and other.dtype == np.uint8 and (other != plain).any()


def test_an_untouched_picture_is_resized_as_everywhere(photograph):
    expected = np.asarray(Image.fromarray(photograph).resize((64, 64), Image.Resampling.BILINEAR))
    assert (robustness.changed(photograph, "none", "", size=64) == expected).all()


def test_mirroring_twice_gives_the_picture_back(photograph):
    once = robustness.changed(photograph, "mirror", "yes", size=64)
    assert (
        robustness.changed(once, "mirror", "yes", size=64) == robustness.changed(photograph, "none", "", size=64)
    ).all()


def test_stronger_compression_and_blur_hurt_more(photograph):
    plain = robustness.changed(photograph, "none", "", size=128).astype(int)
    for change, levels in (("JPEG quality", (90, 30, 10)), ("blur (px)", (1, 2, 4))):
        harm = [np.abs(robustness.changed(photograph, change, level, size=128) - plain).mean() for level in levels]
        assert harm == sorted(harm)


def test_greyscale_leaves_no_colour(photograph):
    assert np.ptp(robustness.changed(photograph, "greyscale", "yes", size=32).astype(int), axis=2).max() == 0


def test_accuracy_falls_where_the_change_matters_and_only_there(halves):
    pictures, labels = halves
    table = robustness.measure_robustness(
        pictures, labels, by_brightness, class_names=["day", "night"], size=32
    ).set_index("change")
    assert table.loc["none", "value"] == 1 and table.loc["mirror", ["value", "same"]].tolist() == [0, 0]
    assert table.loc["greyscale", "value"] == 1 and table.loc["greyscale", "low"] < 1
    assert len(table) == 1 + sum(len(levels) for levels in robustness.CHANGES.values())
    rows = evaluation.plot_robustness(table.reset_index()).get_yticklabels()
    assert [row.get_text() for row in rows][-2:] == ["greyscale yes", "mirror yes"] and len(rows) == len(table) - 1


class Brightness:
    """What `cached_robustness` asks of a model, and how often it was asked."""

    asked = 0

    def predict(self, pixels, **_):
        self.asked += 1
        return by_brightness(pixels)


def test_what_was_measured_is_kept_until_the_model_or_a_picture_has_another_content(halves, tmp_path, monkeypatch):
    judge = Brightness()
    monkeypatch.setattr(model, "load_model", lambda path: judge)
    monkeypatch.setattr(model, "class_names", lambda judge: ["day", "night"])
    monkeypatch.setattr(model, "image_size", lambda judge: 32)
    paths = ["a.png", "b.png"]
    labels, groups = pd.Series(["day", "day"], paths), pd.Series([0, 1], paths)

    def measured():
        before = judge.asked
        table = robustness.cached_robustness(tmp_path, paths, tmp_path, labels=labels, groups=groups)
        return table, judge.asked > before

    (tmp_path / "model.keras").write_bytes(b"first")
    for path, picture in zip(paths, halves[0], strict=False):
        Image.fromarray(picture).save(tmp_path / path)
    table, anew = measured()
    assert anew and table.loc[0, ["change", "value"]].tolist() == ["none", 1]
    (tmp_path / "model.keras").touch()
    again, anew = measured()
    assert not anew, "only the time of the file is another"
    pd.testing.assert_frame_equal(again, table)
    (tmp_path / "model.keras").write_bytes(b"second")
    assert measured()[1]
    Image.fromarray(halves[0][-1]).save(tmp_path / "b.png")
    table, anew = measured()
    assert anew and table.loc[0, "value"] == 0.5
