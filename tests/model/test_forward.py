import keras
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images
from tiny import awakened, staged_classifier

from nsfwlib.model import build, forward, runtime
from nsfwlib.model.classifier import feature_model, set_rescaling, set_temperature
from nsfwlib.model.forward import forward_pass, in_half_precision, model_identity

NAMES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def classifier():
    return awakened(build.build_classifier(NAMES, weights=None, backbone="MobileNetV2", image_size=64))


@pytest.fixture(scope="module")
def staged():
    return staged_classifier(NAMES, size=64)


@pytest.fixture
def pixels(rng):
    return rng.integers(0, 256, (6, 64, 64, 3)).astype(np.uint8)


def said(model, pixels):
    """What it answers, without the seconds that `predict` takes to compile a graph."""
    return keras.tree.map_structure(np.asarray, model(pixels.astype(np.float32), training=False))


@pytest.mark.parametrize("name", ["tensorflow", "openvino"])
def test_every_engine_gives_the_answers_of_plain_keras(classifier, pixels, name, tmp_path):
    forward = forward_pass(classifier, runtime=name, cache_dir=tmp_path)
    expected = said(classifier, pixels)
    assert np.ptp(expected, axis=0).max() > 1e-3, "the answers differ from picture to picture"
    assert np.abs(forward(pixels)[0] - expected).max() < 1e-5
    assert np.abs(forward(pixels[:1].astype(np.float32))[0] - expected[:1]).max() < 1e-5


@pytest.mark.parametrize("name", ["tensorflow", "openvino"])
def test_every_engine_gives_pooled_blocks_in_the_order_asked_for(staged, pixels, name, tmp_path):
    blocks = ["stage_4", "stage_2"]
    found = forward_pass(staged, blocks, runtime=name, cache_dir=tmp_path)(pixels)
    expected = said(feature_model(staged, blocks), pixels)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape and ours.dtype == np.float32
        assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()


def test_a_model_is_converted_once_for_the_same_weights(staged, pixels, tmp_path, monkeypatch):
    first = forward_pass(staged, runtime="openvino", cache_dir=tmp_path)(pixels)[0]
    monkeypatch.setattr(forward, "_graph", None)
    again = forward_pass(staged, runtime="openvino", cache_dir=tmp_path)(pixels)[0]
    assert np.array_equal(first, again)
    monkeypatch.setattr(forward, "compiled", None)
    if forward.openvino_usable():
        assert np.array_equal(first, forward_pass(staged, cache_dir=tmp_path)(pixels)[0])


def test_a_conversion_that_gives_other_answers_is_refused_with_the_difference(staged, pixels, tmp_path, monkeypatch):
    other = keras.models.clone_model(staged)
    other.set_weights([weight * 1.01 for weight in staged.get_weights()])
    graph = forward._graph
    others = {("probabilities",): other, ("stage_3",): feature_model(other, ["stage_3"])}
    monkeypatch.setattr(forward, "_graph", lambda part, names: graph(others[tuple(names)], names))
    for outputs, name in ((None, "probabilities"), (["stage_3"], "stage_3")):
        with pytest.raises(
            ValueError, match=rf"must give the same {name}\. Received: a difference of \d.*at most 1e-04"
        ):
            forward_pass(staged, outputs, runtime="openvino", cache_dir=tmp_path)
    assert not list((tmp_path / "openvino").iterdir())


def test_only_a_converted_file_that_was_changed_is_removed_as_damaged(staged, pixels, tmp_path, monkeypatch):
    first = forward_pass(staged, runtime="openvino", cache_dir=tmp_path)(pixels)[0]
    (kept,) = (tmp_path / "openvino").glob("*.xml")
    with monkeypatch.context() as patch:
        patch.setattr("openvino.Core.compile_model", out_of_memory)
        with pytest.raises(RuntimeError, match=r"could not be opened and was kept: bad allocation.*Free memory"):
            runtime.open_converted(kept)
    assert np.array_equal(runtime.open_converted(kept)(pixels)[0], first)
    whole = kept.read_bytes()
    kept.write_bytes(whole[:1000])
    with pytest.raises(RuntimeError, match="is damaged and was removed"):
        runtime.open_converted(kept)
    assert not kept.exists()


def test_other_weights_in_the_place_of_the_converted_ones_are_never_opened(staged, pixels, tmp_path):
    forward_pass(staged, runtime="openvino", cache_dir=tmp_path)
    (kept,) = (tmp_path / "openvino").glob("*.xml")
    kept.with_suffix(".bin").write_bytes(kept.with_suffix(".bin").read_bytes()[::-1])
    with pytest.raises(RuntimeError, match="is damaged and was removed"):
        runtime.open_converted(kept)
    assert not kept.exists()


def test_a_converted_file_without_a_note_of_its_hash_is_used_and_never_removed(staged, pixels, tmp_path):
    first = forward_pass(staged, runtime="openvino", cache_dir=tmp_path)(pixels)[0]
    (kept,) = (tmp_path / "openvino").glob("*.xml")
    kept.with_suffix(".sha256").unlink()
    assert np.array_equal(forward_pass(staged, runtime="openvino", cache_dir=tmp_path)(pixels)[0], first)
    kept.write_bytes(kept.read_bytes()[:1000])
    with pytest.raises(RuntimeError, match="was kept"):
        runtime.open_converted(kept)
    assert kept.exists()


def out_of_memory(*arguments, **options):
    raise MemoryError("bad allocation")


def test_auto_is_tensorflow_where_nothing_was_converted(staged, pixels, tmp_path, monkeypatch):
    monkeypatch.setattr(forward, "_graph", None)
    expected = said(staged, pixels)
    assert np.allclose(forward_pass(staged, cache_dir=tmp_path)(pixels)[0], expected, atol=1e-5)


def test_features_in_bfloat16_are_near_those_in_float32_and_kept_apart(staged, pixels, tmp_path):
    exact, lowered = (forward_pass(staged, ["stage_4"], bfloat16=b, cache_dir=tmp_path)(pixels)[0] for b in (0, 1))
    assert not runtime.has_bfloat16() or not np.array_equal(exact, lowered), "nothing was computed in bfloat16"
    assert np.corrcoef(exact.ravel(), lowered.ravel())[0, 1] > 0.95, "a random network makes much of small differences"


def test_half_precision_keeps_the_published_features_to_a_hundredth_and_the_weights_as_they_were():
    classifier = build.published_model("MobileNetV2")
    photographs = [Image.fromarray(photograph).resize((224, 224)) for photograph in load_sample_images().images]
    photographs = np.stack(photographs).astype(np.float32)
    features = feature_model(classifier, ["out_relu"])
    half = in_half_precision(features)
    expected, found = (said(part, photographs) for part in (features, half))
    assert np.linalg.norm(found - expected) < 1e-2 * np.linalg.norm(expected)
    assert not np.array_equal(found, expected), "nothing was computed in half precision"
    assert all(weights.dtype == np.float32 for weights in half.get_weights())


def test_probabilities_of_the_half_precision_copy_are_float32_and_sum_to_one(classifier, pixels):
    found = in_half_precision(classifier)(pixels.astype(np.float32), training=False).numpy()
    assert found.dtype == np.float32
    assert np.allclose(found.sum(axis=1), 1, atol=1e-6)


def test_identity_follows_all_that_shapes_the_answers(classifier):
    whole, block = model_identity(classifier), model_identity(classifier, "out_relu")
    set_temperature(classifier, 2.0)
    assert model_identity(classifier) != whole
    assert model_identity(classifier, "out_relu") == block
    set_temperature(classifier, 1.0)
    assert model_identity(classifier) == whole
    scale = classifier.get_layer("rescaling").scale
    set_rescaling(classifier, 1 / 255, 0.0)
    assert model_identity(classifier, "out_relu") != block
    set_rescaling(classifier, scale, -1.0)


def test_an_unknown_engine_lists_those_there_are(classifier):
    with pytest.raises(ValueError, match=r"auto, tensorflow, openvino.*'torch'"):
        forward_pass(classifier, runtime="torch")


def test_a_missing_openvino_says_what_to_install(classifier, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(ImportError, match=r"pip install 'nsfwlib\[openvino\]'"):
        forward_pass(classifier, runtime="openvino")
