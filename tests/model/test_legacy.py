"""Keras 2 files as they were written in 2019, rebuilt from the published topology and weights."""

import json

import h5py
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from nsfwlib.model import build, published
from nsfwlib.model.classifier import class_names, save_model


def write_keras_2(path, topology, weights, *, optimizer=True):
    """An `.h5` with the layout of Keras 2.2: JSON attributes, and a group of tensors a layer."""
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"], file.attrs["backend"] = b"2.2.4", b"tensorflow"
        file.attrs["model_config"] = json.dumps(topology["model_config"]).encode()
        if optimizer:
            file.attrs["training_config"] = json.dumps(topology["training_config"]).encode()
        group = file.create_group("model_weights")
        names = [layer["config"]["name"] for layer in topology["model_config"]["config"]["layers"]]
        group.attrs["layer_names"] = [name.encode() for name in names]
        order = {"kernel": 0, "depthwise_kernel": 0, "gamma": 0, "bias": 1, "beta": 1, "moving_mean": 2}
        for name in names:
            layer, tensors = group.create_group(name), weights.get(name, {})
            keys = sorted(tensors, key=lambda key: order.get(key, 3))
            layer.attrs["weight_names"] = [f"{name}/{key}:0".encode() for key in keys]
            for key in keys:
                layer[f"{name}/{key}:0"] = tensors[key]
    return path


@pytest.fixture(scope="module")
def mobilenet():
    return published.read_layers_model(published.fetch_package(), "mobilenet_v2")


@pytest.fixture(scope="module")
def small_file(mobilenet, tmp_path_factory):
    return write_keras_2(tmp_path_factory.mktemp("h5") / "nsfw_mobilenet2.224x224.h5", *mobilenet)


@pytest.fixture(scope="module")
def loaded(small_file):
    return build.load_model(small_file)


@pytest.fixture(scope="module")
def published_mobilenet():
    return build.published_model("MobileNetV2")


def pictures(rng, size, n=2):
    return rng.integers(0, 256, (n, size, size, 3)).astype(np.float32)


def test_a_file_of_2019_gives_the_published_answers_on_raw_pixels(tmp_path, rng):
    topology, weights = published.read_layers_model(published.fetch_package(), published.MODELS["InceptionV3"])
    loaded, x = build.load_model(write_keras_2(tmp_path / "nsfw.h5", topology, weights)), pictures(rng, 299)
    assert class_names(loaded) == list(published.CLASS_NAMES)
    assert np.abs(loaded(x, training=False) - build.published_model()(x, training=False)).max() < 1e-5


def test_the_smaller_file_of_2019_gives_the_published_answers_on_raw_pixels(loaded, published_mobilenet, rng):
    x = pictures(rng, 224)
    assert class_names(loaded) == ["drawings", "hentai", "neutral", "porn", "sexy"]
    assert np.abs(loaded(x, training=False) - published_mobilenet(x, training=False)).max() < 1e-5


def test_the_wrapped_model_is_what_plain_keras_says_of_pixels_over_255(small_file, loaded, rng):
    import keras

    x = pictures(rng, 224)
    plain = keras.models.load_model(small_file, compile=False)(x / 255, training=False)
    assert np.abs(loaded(x, training=False) - plain).max() < 1e-5


def test_a_wrapped_model_is_saved_and_loaded_like_any_other(loaded, tmp_path, rng):
    save_model(loaded, tmp_path / "model.keras")
    again = build.load_model(tmp_path / "model.keras")
    assert class_names(again) == list(published.CLASS_NAMES)


def test_a_class_order_can_be_stated(small_file):
    assert class_names(build.load_model(small_file, class_names=list("abcde"))) == list("abcde")
    with pytest.raises(ValueError, match=r"class_names must be 5 names"):
        build.load_model(small_file, class_names=["a", "b"])


@pytest.mark.parametrize("class_names", [None, list("abcde")])
def test_a_lambda_is_refused_before_anything_is_read(small_file, tmp_path, monkeypatch, class_names):
    hostile, opened = tmp_path / "hostile.h5", []
    hostile.write_bytes(small_file.read_bytes())
    with h5py.File(hostile, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"]["layers"][1] = {
            "class_name": "Lambda",
            "name": "evil",
            "config": {"name": "evil", "function": ["4wEAAAA=", None, None]},
            "inbound_nodes": [],
        }
        del file.attrs["model_config"]
        file.attrs["model_config"] = json.dumps(config)
    monkeypatch.setattr("keras.models.load_model", lambda *arguments, **options: opened.append(arguments))
    with pytest.raises(ValueError, match=r"can carry code.*Lambda"):
        build.resolve_model(hostile, class_names=class_names)
    assert not opened, "Keras never sees the file"


def test_weights_without_a_model_are_named(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["conv/kernel"] = np.zeros(3)
    with pytest.raises(ValueError, match=r"weights without a model"):
        build.load_model(tmp_path / "w.h5")


def test_a_damaged_file_is_named(small_file, tmp_path):
    (tmp_path / "cut.h5").write_bytes(small_file.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"damaged|could not be read"):
        build.load_model(tmp_path / "cut.h5")


@pytest.mark.parametrize("convolutions", [0, 35])  # the second number is MobileNetV2's
def test_another_architecture_is_named(tmp_path, convolutions):
    import keras

    body = [keras.layers.Conv2D(2, 1) for _ in range(convolutions)]
    other = keras.Sequential([keras.Input((64, 64, 3)), *body, keras.layers.Flatten(), keras.layers.Dense(5)])
    other.save(tmp_path / "other.h5")
    with pytest.raises(ValueError, match=r"another architecture"):
        build.load_model(tmp_path / "other.h5")


def test_other_numbers_of_classes_need_names(tmp_path):
    import keras

    other = keras.Sequential([keras.Input((64, 64, 3)), keras.layers.Flatten(), keras.layers.Dense(7)])
    other.save(tmp_path / "other.h5")
    with pytest.raises(ValueError, match=r"7 outputs and no class names"):
        build.load_model(tmp_path / "other.h5")


def test_a_saved_model_folder_says_how_to_convert(tmp_path):
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(ValueError, match=r"SavedModel.*tf_keras"):
        build.load_model(tmp_path)


def test_the_published_mobilenet_knows_a_photograph(published_mobilenet):
    for photograph in load_sample_images().images:
        small = np.asarray(Image.fromarray(photograph).resize((224, 224), Image.Resampling.BILINEAR), np.float32)
        probs = published_mobilenet(small[None], training=False).numpy()[0]
        assert published.CLASS_NAMES[probs.argmax()] == "neutral"
