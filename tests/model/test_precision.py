import shutil

import numpy as np
import pytest
from tiny import staged_classifier

from nsfwlib.model import runtime
from nsfwlib.model.classifier import save_model
from nsfwlib.model.ready import make_ready

SIZE = 32


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.keras"
    save_model(staged_classifier(["a", "b", "c"], size=SIZE), path)
    return path


@pytest.fixture(scope="module")
def converted(model_file, tmp_path_factory):
    return make_ready(model_file, runtime="openvino", cache_dir=tmp_path_factory.mktemp("cache"), progress=False)


@pytest.fixture
def ready(converted, tmp_path):
    shutil.copytree(converted.cache_dir, tmp_path / "cache")
    return converted._replace(cache_dir=tmp_path / "cache")


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(runtime, "COMPARED", 40)
    monkeypatch.setattr(runtime, "CALIBRATED", 20)
    monkeypatch.setattr(runtime, "has_bfloat16", lambda: True)


def wide(monkeypatch, bound=1.0):
    monkeypatch.setattr(runtime, "BOUNDS", dict.fromkeys(runtime.BOUNDS, (bound, bound)))


def sample(count):
    cells = np.random.default_rng(3).integers(0, 256, (min(count, 200), 4, 4, 3))
    return cells.repeat(SIZE // 4, 1).repeat(SIZE // 4, 2).astype(np.uint8)


def test_agreement_counts_changed_classes_with_an_upper_limit():
    exact = np.tile([[0.6, 0.4]], (300, 1)) + np.linspace(0, 0.1, 300)[:, None] * [1, -1]
    lowered = exact.copy()
    lowered[:3] = [0.4, 0.6]
    found = runtime.agreement(exact, lowered)
    assert found["changed"] == 0.01 and 0.02 < found["changed_high"] < 0.03
    assert found["largest_change"] == pytest.approx(0.2, abs=0.01)
    assert runtime.agreement(exact, exact)["rank_correlation"] == 1
    assert 0.009 < runtime.agreement(exact, exact)["changed_high"] < 0.01, "none of 300 is no proof of none"


def test_int8_is_quantised_once_and_its_agreement_kept_beside_it(ready, monkeypatch):
    wide(monkeypatch)
    lowered = ready.lowered("int8", sample)
    exact, found = (computes.forward("auto")(sample(8))[0] for computes in (ready, lowered))
    assert lowered.precision == "int8" and lowered.agreement["pictures"] == 40
    assert 0 < np.abs(exact - found).mean() < 0.3, "other answers, but near, even of a network that learnt nothing"
    again = ready.lowered("int8", lambda count: pytest.fail("compared again"))
    assert again.agreement == lowered.agreement


def test_answers_outside_the_bounds_are_refused_with_the_numbers(ready, monkeypatch):
    wide(monkeypatch, -1.0)  # no answers are as near as that, even where bfloat16 is computed as float32
    with pytest.raises(ValueError, match=r"Received: [\d.]+% of the predicted classes.* on 40 pictures.*float32"):
        ready.lowered("int8", sample)
    assert ready.lowered("auto", sample).precision == "float32"


def test_auto_stays_with_float32_where_there_are_too_few_pictures_to_tell(ready, monkeypatch):
    wide(monkeypatch)
    assert ready.lowered("auto", lambda count: sample(39)).precision == "float32"
    assert ready.lowered("auto", sample).precision == "bfloat16"


def test_what_is_asked_for_in_a_small_folder_is_compared_on_drawn_pictures_too_and_says_so(ready, monkeypatch):
    wide(monkeypatch)
    found = ready.lowered("bfloat16", lambda count: sample(5)).agreement
    assert (found["pictures"], found["filled_up"]) == (40, 35)
    assert "35 of them drawn or shipped" in runtime.in_words(found)


def test_a_processor_without_bfloat16_computes_in_float32(ready, monkeypatch):
    monkeypatch.setattr(runtime, "has_bfloat16", lambda: False)
    assert ready.lowered("auto", sample).precision == "float32"
    with pytest.raises(ValueError, match="needs a processor with bfloat16"):
        ready.lowered("bfloat16", sample)


def test_a_changed_int8_file_is_made_and_compared_anew(ready, monkeypatch):
    wide(monkeypatch)
    ready.lowered("int8", sample)
    kept = runtime.lowered_path(ready.file(), "int8")
    kept.with_suffix(".sha256").write_text("another")
    asked = []
    ready.lowered("int8", lambda count: asked.append(count) or sample(count))
    assert asked


def test_an_unknown_precision_lists_those_there_are(ready):
    with pytest.raises(ValueError, match=r"auto, float32, bfloat16, int8\. Received: 'half'"):
        ready.lowered("half", sample)
