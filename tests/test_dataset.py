"""The images table: what the scan finds, splits by group, labels with decisions."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from nsfwlib import dataset


def draw(path, seed, mode="RGB"):
    generator = np.random.default_rng(seed)
    blocks = generator.integers(0, 255, (8, 8, 3)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(blocks).resize((64, 64), Image.Resampling.BICUBIC).convert(mode).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    for i in range(4):
        draw(tmp_path / "data" / "neutral" / f"{i}.png", i)
        draw(tmp_path / "data" / "sexy" / "deeper" / f"{i}.png", 100 + i)
    return tmp_path / "data"


def test_every_file_has_a_row_and_its_class_is_the_top_folder(folder):
    (folder / "neutral" / "page.jpg").write_text("<html>gone</html>")
    (folder / "neutral" / "Thumbs.db").write_bytes(b"x")
    table = dataset.scan(folder, progress=False, workers=1).set_index("path")
    assert len(table) == 10
    assert table.loc["sexy/deeper/0.png", "given_label"] == "sexy"
    assert table.loc["neutral/page.jpg", "problem"] == "not an image"
    assert table.loc["neutral/Thumbs.db", "problem"].startswith("skipped")
    assert (table["problem"] == "").sum() == 8


def test_a_decision_applies_to_every_copy(folder):
    table = dataset.scan(folder, progress=False, workers=1)
    twin = table.iloc[[0]].assign(path="neutral/copy.png")
    table = pd.concat([table, twin], ignore_index=True)
    journal = pd.DataFrame({"sha256": [table["sha256"][0]], "decision": ["sexy"]})
    labels = dataset.current_labels(table, journal)
    assert labels.iloc[0] == labels.iloc[-1] == "sexy"
