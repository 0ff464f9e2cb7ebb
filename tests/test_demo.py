"""The embedded data set: what is planted is there, is written down, and nothing else is touched."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

from nsfwlib import demo

BROKEN = {"truncated", "zero_byte", "html", "tiny", "not_an_image", "placeholder"}
ODD = {"wrong_extension", "cmyk", "exif_orientation", "alpha_only", "webp", "animated"}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The smallest demo, for tests that only read it."""
    data = tmp_path_factory.mktemp("demo") / "data"
    return SimpleNamespace(data=data, truth=demo.make_demo(data, images_per_class=8))


@pytest.fixture(scope="module")
def medium(tmp_path_factory):
    """Large enough for rates to mean something, small enough to be drawn in seconds."""
    data = tmp_path_factory.mktemp("demo") / "data"
    return SimpleNamespace(data=data, truth=demo.make_demo(data, images_per_class=39))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def load(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        image.load()
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def drawn(truth: pd.DataFrame) -> pd.DataFrame:
    return truth[truth["defect"].eq("") & truth["duplicate_of"].eq("")]


def session(queue: pd.DataFrame, decided: list):
    return SimpleNamespace(queue=queue, decide=lambda path, decision: decided.append((path, decision)))


def test_truth_lists_exactly_the_files_of_the_five_class_folders(small):
    assert set(small.truth["path"]) == set(contents(small.data))
    assert {p.name for p in small.data.iterdir()} == set(demo.CLASSES)
    assert list(small.truth.columns) == list(demo.TRUTH_COLUMNS)
    assert small.truth["given_label"].tolist() == [path.split("/")[0] for path in small.truth["path"]]


def test_truth_lies_beside_the_data_and_reads_back_the_same(small):
    assert demo.truth_path(small.data) == small.data.parent / "data_truth.csv"
    assert sorted(p.name for p in small.data.parent.iterdir()) == ["data", "data_truth.csv"]
    pd.testing.assert_frame_equal(demo.read_truth(small.data), small.truth)
