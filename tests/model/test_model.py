import os
import re
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from tiny import awakened, staged_classifier

from nsfwlib.model import build, classifier


@pytest.fixture(scope="module")
def small():
    names = ["cat", "dog", "x/ü_1.z"]
    return awakened(build.build_classifier(names, weights=None, backbone="MobileNetV2", image_size=32))


@pytest.fixture(scope="module")
def staged():
    return staged_classifier(["cat", "dog", "x/ü_1.z"], size=32)


@pytest.fixture(scope="module")
def inception():
    return build.build_classifier(["cat", "dog"], weights=None, image_size=75)


def pictures(rng, n=4, size=32):
    return rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def said(model, pixels):
    """What it answers, without the seconds that `predict` takes to compile a graph."""
    return keras.tree.map_structure(np.asarray, model(pixels.astype(np.float32), training=False))


def test_probabilities_sum_to_one_on_raw_pixels(small, rng):
    assert np.allclose(said(small, pictures(rng)).sum(axis=1), 1, atol=1e-5)


def test_class_names_travel_in_the_saved_file(staged, tmp_path, rng):
    classifier.save_model(staged, tmp_path / "model.keras")
    loaded = build.load_model(tmp_path / "model.keras")
    assert classifier.class_names(loaded) == ["cat", "dog", "x/ü_1.z"]
    x = pictures(rng)
    assert np.array_equal(loaded.predict(x, verbose=0), staged.predict(x, verbose=0))


def test_plain_keras_loads_the_saved_file_where_nsfwlib_is_missing(staged, tmp_path):
    classifier.save_model(staged, tmp_path / "model.keras")
    code = (
        "import sys; sys.modules['nsfwlib'] = None\n"
        "import keras, numpy as np\n"
        f"model = keras.models.load_model({str(tmp_path / 'model.keras')!r})\n"
        "print(model.layers[-1].name, model(np.zeros((1, 32, 32, 3)), training=False).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert "classes.cat.dog.x_2f__fc__5f_1_2e_z (1, 3)" in done.stdout, done.stderr


def test_the_head_is_that_of_2019(small):
    dropouts = [layer.rate for layer in small.layers if isinstance(layer, keras.layers.Dropout)]
    assert dropouts == [0.4, 0.5, 0.25]
    assert [layer.units for layer in classifier.head_layers(small, keras.layers.Dense)] == [256, 128, 3]


def test_the_head_model_shares_its_weights_with_the_classifier(small, rng):
    x = pictures(rng)
    features = said(classifier.feature_model(small, [classifier.FEATURES]), x)
    assert np.allclose(said(classifier.head_model(small), features), said(small, x), atol=1e-5)


def test_features_of_several_blocks_are_pooled_to_their_channels(inception, rng):
    pixels = pictures(rng, size=75)
    widths = [f.shape for f in said(classifier.feature_model(inception, ["mixed4", "mixed10"]), pixels)]
    assert widths == [(4, 768), (4, 2048)]


def test_the_blocks_that_are_found_are_the_ends_of_the_stages(small, inception):
    assert classifier.find_blocks(inception)[-3:] == ["mixed2", "mixed7", "mixed10"]
    assert classifier.find_blocks(small)[-2:] == ["block_13_expand_relu", "out_relu"]


def test_a_head_over_several_blocks_answers_from_all_of_them_in_plain_keras(staged, tmp_path, rng):
    blocks, x = ["stage_2", "stage_3", "stage_4"], pictures(rng)
    wide = classifier.with_head(staged, ["a", "b"], blocks=blocks)
    features = np.concatenate(classifier.feature_model(staged, blocks).predict(x, verbose=0), axis=1)
    kernel, bias = rng.normal(size=(features.shape[1], 2)), rng.normal(size=2)
    classifier.set_logistic_head(wide, kernel, bias, features.mean(axis=0), features.std(axis=0))
    classifier.save_model(wide, tmp_path / "wide.keras")
    odds = np.exp(features @ kernel + bias)
    plain = keras.models.load_model(tmp_path / "wide.keras")
    assert np.allclose(plain.predict(x, verbose=0), odds / odds.sum(axis=1, keepdims=True), atol=1e-4)
    assert classifier.head_blocks(build.load_model(tmp_path / "wide.keras")) == blocks


def test_any_keras_file_of_pictures_is_a_backbone_behind_its_own_rescaling(tmp_path, rng):
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, activation="relu", name="fine")(inputs)
    foreign = keras.Model(inputs, keras.layers.Conv2D(5, 3, strides=2, name="coarse")(x))
    foreign.save(tmp_path / "foreign.keras")
    options = {"weights": tmp_path / "foreign.keras", "head": "logistic"}
    made = build.build_classifier(["a", "b"], image_size=32, rescaling=(1 / 127.5, -1.0), **options)
    pixels = pictures(rng).astype(np.float32)
    expected = foreign.predict(pixels / 127.5 - 1, verbose=0).mean(axis=(1, 2))
    assert np.allclose(classifier.feature_model(made, ["coarse"]).predict(pixels, verbose=0), expected, atol=1e-5)
    assert classifier.find_blocks(made) == ["fine", "coarse"] and made.output_shape == (None, 2)
    with pytest.raises(ValueError, match=r"square RGB pictures \(B, S, S, 3\)\. Received.*None"):
        build.build_classifier(["a", "b"], **options)


def test_a_network_whose_imagenet_weights_want_other_channels_is_refused_and_an_unknown_one_lists_those_there_are():
    with pytest.raises(ValueError, match=r"VGG16 want channels of different ranges"):
        build.build_classifier(["a", "b"], weights=None, backbone="VGG16")
    with pytest.raises(ValueError, match=r"one of ConvNeXtBase.*Received: 'VGG'"):
        build.build_classifier(["a", "b"], weights=None, backbone="VGG")


def test_unfreezing_leaves_batch_norm_and_the_lower_blocks_frozen(inception):
    classifier.unfreeze_from(inception, "mixed7")
    trainable = [layer.name for layer in inception.layers if layer.trainable and layer.weights]
    below = [layer.name for layer in inception.layers[: inception.layers.index(inception.get_layer("mixed7"))]]
    assert not any(isinstance(inception.get_layer(n), keras.layers.BatchNormalization) for n in trainable)
    assert not set(trainable) & set(below) and "logits" in trainable and len(trainable) > 10
    classifier.freeze_backbone(inception)
    assert {layer.name for layer in inception.layers if layer.trainable and layer.weights} == {
        "head_dense_1",
        "head_dense_2",
        "logits",
    }


def test_an_unknown_block_lists_those_there_are(inception):
    with pytest.raises(ValueError, match=r"no block 'mixed77'. Blocks it has: .*mixed0, .*mixed10"):
        classifier.unfreeze_from(inception, "mixed77")


def test_temperature_is_saved_and_never_changes_the_answer(staged, tmp_path, rng):
    x = pictures(rng, 8)
    before = staged.predict(x, verbose=0)
    classifier.set_temperature(staged, 3.0)
    hot = staged.predict(x, verbose=0)
    classifier.save_model(staged, tmp_path / "hot.keras")
    again = build.load_model(tmp_path / "hot.keras").predict(x, verbose=0)
    classifier.set_temperature(staged, 1.0)
    expected = before ** (1 / 3) / (before ** (1 / 3)).sum(axis=1, keepdims=True)
    assert np.allclose(hot, expected, atol=1e-5) and np.array_equal(hot, again)
    assert np.array_equal(hot.argmax(1), before.argmax(1))


def test_backbone_weights_of_a_file_come_with_its_rescaling(small, tmp_path, rng):
    classifier.set_rescaling(small, 1 / 255, 0.0)
    classifier.save_model(small, tmp_path / "model.keras")
    other = build.build_classifier(
        ["a", "b"], weights=tmp_path / "model.keras", backbone="MobileNetV2", image_size=32, seed=9
    )
    classifier.set_rescaling(small, 1 / 127.5, -1.0)
    expected = build.load_model(tmp_path / "model.keras")
    x = pictures(rng)
    pairs = [said(classifier.feature_model(model, [classifier.FEATURES]), x) for model in (expected, other)]
    assert np.array_equal(*pairs)


@pytest.mark.parametrize("names", [["one"], [], ["a", "a"], ["a", ""]])
def test_fewer_than_two_different_class_names_are_refused(names):
    with pytest.raises(ValueError, match="two or more different names"):
        build.build_classifier(names, weights=None)


def test_a_missing_model_file_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no model file"):
        build.load_model(tmp_path / "none.keras")


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "x.keras").write_text("<html>")
    with pytest.raises(ValueError, match=r"is no model file\. Expected `\.keras`"):
        build.load_model(tmp_path / "x.keras")


def test_a_pipe_is_no_model_file_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.keras")
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it was waited for"))
    signal.alarm(20)
    try:
        with pytest.raises(ValueError, match=r"pipe\.keras is no regular file"):
            build.load_model(tmp_path / "pipe.keras")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    ("method", "size", "sentence"),
    [
        (zipfile.ZIP_DEFLATED, 300 << 20, r"expands to .*At most"),
        (zipfile.ZIP_BZIP2, 1 << 20, "compressed in a way"),
    ],
)
def test_an_archive_that_swells_is_refused_before_keras_sees_it(staged, tmp_path, monkeypatch, method, size, sentence):
    path = tmp_path / "bomb.keras"
    classifier.save_model(staged, path)
    with zipfile.ZipFile(path, "a", method) as archive:
        archive.writestr("assets/zeros", bytes(size))
    monkeypatch.setattr(keras.models, "load_model", None)
    with pytest.raises(ValueError, match=sentence):
        build.load_model(path)


def test_a_file_of_two_formats_is_judged_by_what_keras_would_open(staged, tmp_path, monkeypatch):
    path = tmp_path / "two.keras"
    keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)]).save(tmp_path / "harmless.h5")
    path.write_bytes((tmp_path / "harmless.h5").read_bytes())
    classifier.save_model(staged, tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as model, zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as both:
        for name in model.namelist():
            both.writestr(name, model.read(name))
        both.writestr("assets/zeros", bytes(300 << 20))
    monkeypatch.setattr(keras.models, "load_model", lambda *_, **__: pytest.fail("Keras saw it"))
    with pytest.raises(ValueError, match=r"expands to .*At most"):
        build.load_model(path)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_weights_that_swell_are_refused_before_keras_sees_them(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"bomb{suffix}"
    dense = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    dense.save(path)
    weights = path
    if suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            weights = Path(archive.extract("model.weights.h5", tmp_path))
    with h5py.File(weights, "a") as file:
        file.create_dataset("bomb", (1 << 35,), "f4", chunks=True, compression="gzip")
    if suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in (parts | {"model.weights.h5": weights.read_bytes()}).items():
                archive.writestr(name, content)
    monkeypatch.setattr(keras.models, "load_model", None)
    with pytest.raises(ValueError, match=r"bomb.* would expand to 137,4\d\d\.\d MB"):
        build.load_model(path)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_network_larger_than_its_file_is_refused_before_it_is_built(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"vast{suffix}"
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(23), keras.layers.Dense(29)]).save(path)
    if suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in parts.items():
                archive.writestr(name, vast(content) if name == "config.json" else content)
    else:
        with h5py.File(path, "a") as file:
            file.attrs["model_config"] = vast(file.attrs["model_config"].encode())
    monkeypatch.setattr(keras.models, "load_model", None)
    with pytest.raises(ValueError, match=r"a network of 6,67\d,\d+\.\d million numbers"):
        build.load_model(path)


def vast(config):
    return re.sub(rb"\b23\b", b"23000000", config.replace(b'"units": 29', b'"units": 290000'))


@pytest.mark.parametrize("name", ["a_a_b", "a_202e_b", "x" * 256, "a_110000_b"])
def test_class_names_in_a_model_are_printable_and_of_a_bounded_length(small, name):
    last = keras.layers.Identity(name=f"classes.{name}.c.d")
    strange = keras.Model(small.input, last(small.layers[-2].output))
    if name == "a_110000_b":  # no character: it stands as it is
        assert classifier.class_names(strange) == [name, "c", "d"]
    else:
        with pytest.raises(ValueError, match="printable"):
            classifier.class_names(strange)


def test_a_model_with_code_inside_is_refused(tmp_path):
    inputs = keras.Input((2,))
    keras.Model(inputs, keras.layers.Lambda(lambda x: x)(inputs)).save(tmp_path / "lambda.keras")
    assert zipfile.is_zipfile(tmp_path / "lambda.keras")
    with pytest.raises(ValueError, match=r"(?i)lambda"):
        build.load_model(tmp_path / "lambda.keras")
