import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import keras
import nbformat
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from PIL import Image

from nsfwlib import demo, files, pipeline
from nsfwlib.data import images
from nsfwlib.demo import shipped
from nsfwlib.export import formats, parity, tfjs, write
from nsfwlib.model import build, classifier, published
from nsfwlib.plots import evaluation

NAMES = ["cat", "x/ü_1", "z"]
NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "06_export_model.ipynb"
CHINA = shipped.shipped_photographs()[0]


def required(fetch):
    """What a peer's test needs, or a skip that says why; under CI it must be there."""
    try:
        return fetch()
    except (RuntimeError, subprocess.CalledProcessError) as reason:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def node_modules():
    return required(parity.install_nsfwjs)


@pytest.fixture(scope="module")
def small():
    """A classifier of 64 pixels with each kind of layer and a head on two blocks; its answers to photographs differ."""
    layers = keras.layers
    keras.utils.set_random_seed(5)
    inputs = keras.Input((64, 64, 3), name="rgb")
    x = layers.Rescaling(1 / 127.5, -1.0, name="rescaling")(inputs)
    x = layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.0)(layers.Conv2D(16, 3, strides=2, use_bias=False)(x)))
    x = layers.ZeroPadding2D(((0, 1), (0, 1)))(x)
    x = layers.DepthwiseConv2D(3)(x)  # as in MobileNetV2; OpenVINO forgets a padding before one that pads itself
    x = layers.Activation("relu")(layers.BatchNormalization(scale=False, momentum=0.0)(x))
    pools = [layers.MaxPooling2D(3, 2, padding="same")(x), layers.AveragePooling2D(3, 2, padding="same")(x)]
    x = layers.Concatenate(name="lower")([*pools, layers.Add()(pools)])
    body = keras.Model(inputs, layers.Conv2D(32, 3, activation="relu", name="upper")(x))
    body(pixels(24), training=True)  # BatchNorm learns its statistics
    made = classifier.with_head(body, NAMES, blocks=["lower", "upper"])
    features = np.concatenate(classifier.feature_model(made, ["lower", "upper"]).predict(pixels(24), verbose=0), axis=1)
    made.get_layer("standardise").set_weights([features.mean(axis=0), features.var(axis=0) + features.var()])
    (dense,) = classifier.head_layers(made, keras.layers.Dense)
    logits = keras.Model(inputs, made.get_layer("logits").output).predict(pixels(24), verbose=0)
    spread = 4 / logits.std(axis=0)
    dense.set_weights([dense.kernel.numpy() * spread, -logits.mean(axis=0) * spread])
    classifier.set_temperature(made, 1.5)
    return made


@pytest.fixture(scope="module")
def exported(small, tmp_path_factory):
    """The small model in every format, and its parity table."""
    folder = tmp_path_factory.mktemp("small") / "exports"
    return folder, write.export(small, folder, views=60)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Notebook 06 on the smaller published network, with nsfwjs in Node where there is one."""
    folder = tmp_path_factory.mktemp("published")
    build.published_model("MobileNetV2").save(folder / "small.keras")
    chosen = {"formats": ["savedmodel", "tflite_float16", "onnx", "tfjs"], "views": 4, "check_in_node": has_node()}
    chosen["model_file"] = folder / "small.keras"
    pipeline.run_notebooks(["06_export_model"], folder / "run", progress=False, **chosen)
    shutil.copy(CHINA, folder / "run" / "exports" / "picture.jpg")
    return folder / "run"


def has_node():
    try:
        return bool(parity.install_nsfwjs())
    except RuntimeError:
        if os.environ.get("CI") == "true":
            raise
        return False


def pixels(count=4, size=64):
    return parity.picture_windows(shipped.shipped_photographs()[:3], size=size, count=count, seed=7)


def said(model, pixels):
    """What it answers, without the seconds that `predict` takes to compile a graph."""
    return np.asarray(model(pixels.astype(np.float32), training=False))


def fresh_process(code, folder):
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1].replace("'", '"'))


def test_every_format_is_written_within_its_tolerance_and_says_what_it_takes(exported):
    folder, table = exported
    assert list(table.index) == ["keras", *formats.FORMATS]
    for name, row in table.iloc[1:].iterrows():
        assert row[row["tolerated"]] <= row["tolerance"], name
        assert json.loads((folder / name / "classes.json").read_text(encoding="utf-8")) == NAMES
        facts = json.loads((folder / name / "preprocessing.json").read_text(encoding="utf-8"))
        assert facts["input"]["shape"] == ["batch", 64, 64, 3] and facts["range"] in ([0, 255], [0, 1])
        assert ("limits" in facts) == ("16" in name or "8" in name), "what is quantised says so"
    on_disk = pd.read_csv(folder / "parity.csv", index_col="format")
    assert on_disk["largest_difference"].round(6).equals(table["largest_difference"].round(6))


def test_the_pictures_compared_get_different_answers(small):
    answers = np.bincount(said(small, pixels(24)).argmax(axis=1), minlength=3)
    assert (answers > 2).all(), "parity of a constant proves nothing"


def test_smaller_formats_are_smaller(exported):
    size = exported[1]["size_mb"]
    assert size["tflite_float16"] < 0.6 * size["tflite_float32"] and size["tfjs_uint16"] < 0.6 * size["tfjs"]
    assert size["tflite_int8"] < 0.4 * size["tflite_float32"] and size["tfjs_uint8"] < 0.4 * size["tfjs"]


def test_int8_bears_features_of_very_different_spread(small, tmp_path):
    same = keras.models.clone_model(small)
    same.set_weights(small.get_weights())
    upper, standardise = same.get_layer("upper"), same.get_layer("standardise")
    scale = 10.0 ** np.random.default_rng(0).uniform(0, 1.5, 32)
    upper.set_weights([part * scale for part in upper.get_weights()])  # ReLU lets a positive factor through
    mean, variance = standardise.get_weights()
    of_all = np.r_[np.ones(len(mean) - 32), scale]
    standardise.set_weights([mean * of_all, variance * of_all**2])
    assert np.allclose(said(same, pixels()), said(small, pixels()), atol=1e-3)
    names = ["tflite_int8", "openvino_int8"]
    table = write.export(same, tmp_path / "out", names, views=60)
    assert (table.loc[names, "largest_difference"] < 0.2).all()


def test_the_saved_model_answers_pixels_and_bytes_alike(small, exported):
    x, signatures = pixels(2), tf.saved_model.load(str(exported[0] / "savedmodel")).signatures
    from_pixels = signatures["serving_default"](pixels=tf.constant(x))["probabilities"].numpy()
    from_bytes = signatures["bytes"](image=tf.constant([tf.io.encode_png(x[0]).numpy()] * 2))["probabilities"].numpy()
    expected = said(small, x)
    assert np.abs(from_pixels - expected).max() < 1e-4
    assert np.abs(from_bytes - expected[[0, 0]]).max() < 1e-4


def test_pixels_divided_by_255_are_refused_and_not_misunderstood(exported):
    answer = parity.open_onnx(exported[0] / "onnx").answer
    with pytest.raises(Exception, match=r"(?i)uint8"):
        answer(pixels().astype(np.float32) / 255)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "greyscale", "palette", "RGBA", "16-bit grey"])
def test_bytes_are_decoded_and_resized_as_pillow_does(form, tmp_path):
    with Image.open(CHINA) as picture:
        path = tmp_path / ("a.jpg" if form == "JPEG" else "a.png")
        if form == "RGBA":
            picture.putalpha(Image.linear_gradient("L").resize(picture.size))
        if form == "16-bit grey":
            picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
        picture.convert({"greyscale": "L", "palette": "P"}.get(form, picture.mode)).save(path)
    ours = images.load_image(path, size=96).astype(int)
    theirs = formats._decode(path.read_bytes(), 96).numpy().astype(int)
    assert np.abs(ours - theirs).max() <= 2


def test_a_picture_that_tensorflow_refuses_does_not_count(small, exported, tmp_path):
    (tmp_path / "a.jpg").write_bytes(CHINA.read_bytes()[:100])
    answers = parity.open_savedmodel(exported[0] / "savedmodel").from_files([CHINA, tmp_path / "a.jpg"])
    assert answers.shape == (2, 3) and np.isfinite(answers).all(axis=1).tolist() == [True, False]


@pytest.mark.parametrize("rescaling", [(1 / 255, 0.0), (1 / 127.5, -1.0)])
def test_nsfwjs_loads_the_web_export_and_gives_the_same_answers(small, tmp_path, node_modules, rescaling):
    before = small.get_layer("rescaling")
    kept = before.scale, before.offset
    classifier.set_rescaling(small, *rescaling)
    try:
        tfjs.write_tfjs(small, tmp_path)
        x = pixels(4)
        theirs, _ = parity.ask_nsfwjs(tmp_path, x, size=64, node_modules=node_modules)
        expected = said(small, x)
    finally:
        classifier.set_rescaling(small, *kept)
    kinds = [layer["class_name"] for layer in topology(tmp_path)]
    assert np.abs(theirs - expected).max() < 1e-4
    assert kinds.count("Rescaling") == (1 if rescaling[1] == 0 else 2), "the temperature, and what is not 1/255"


def topology(folder):
    document = json.loads((folder / "model.json").read_text())
    return document["modelTopology"]["model_config"]["config"]["layers"]


@pytest.mark.parametrize(("quantised", "tolerance"), [("uint8", 0.2), ("uint16", 1e-3)])
def test_nsfwjs_reads_quantised_weights_as_keras_reads_them_back(small, tmp_path, node_modules, quantised, tolerance):
    tfjs.write_tfjs(small, tmp_path, quantised=quantised)
    x = pixels(3)
    theirs = parity.ask_nsfwjs(tmp_path, x, size=64, node_modules=node_modules)[0]
    ours = said(tfjs.read_tfjs(tmp_path), x / np.float32(255))
    assert np.abs(theirs - ours).max() < 1e-4
    assert np.abs(theirs - said(small, x)).max() < tolerance


def test_the_layers_of_other_backbones_are_written_too(tmp_path):
    backbone = build.build_classifier(NAMES, weights=None, backbone="MobileNetV2", image_size=32)
    tfjs.write_tfjs(backbone, tmp_path)
    x = pixels(2, size=32)
    ours = said(tfjs.read_tfjs(tmp_path), x / np.float32(255))
    assert np.abs(ours - said(backbone, x)).max() < 1e-5


def test_a_layer_that_browsers_do_not_have_is_an_error(tmp_path):
    inputs = x = keras.Input((8, 8, 3))
    x = keras.layers.Rescaling(1 / 255)(x)
    x = keras.layers.GroupNormalization(3)(x)
    with pytest.raises(ValueError, match=r"Expected layers that TensorFlow\.js has\. Received: GroupNormalization"):
        tfjs.write_tfjs(keras.Model(inputs, x), tmp_path)


def test_a_web_export_that_nsfwjs_cannot_load_is_one_sentence(tmp_path, node_modules):
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(RuntimeError, match=r"nsfwjs did not answer with .*It said:"):
        parity.ask_nsfwjs(tmp_path, pixels(1), size=64, node_modules=node_modules)


def test_without_node_the_error_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(published.sys, "executable", str(tmp_path / "python"))
    with pytest.raises(RuntimeError, match=r"no npm was found on PATH\. Install Node\.js, or `pip install"):
        parity.install_nsfwjs(cache_dir=tmp_path)


def test_an_unknown_format_lists_those_there_are(small, tmp_path):
    with pytest.raises(ValueError, match=r"some of savedmodel, .*tfjs_uint8\. Received: 'coreml'"):
        write.export(small, tmp_path / "out", ["onnx", "coreml"])
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_never_written_to(small, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError, match="Choose another folder, or move that one away"):
        write.export(small, tmp_path / "out", ["tfjs"])
    assert not list((tmp_path / "out").iterdir())


def test_a_model_that_does_not_take_raw_rgb_is_refused(tmp_path):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Flatten()(inputs)
    x = keras.layers.Identity(name="classes.a.b")(keras.layers.Dense(2)(x))
    with pytest.raises(ValueError, match=r"takes raw RGB 0–255.*first layer 'flatten"):
        write.export(keras.Model(inputs, x, name="plain"), tmp_path / "out", ["tfjs"])
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named_before_anything_is_converted(small, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("tf2onnx", "nncf") else name)
    with pytest.raises(ImportError, match=r"format openvino_int8 needs nncf: pip install 'nsfwlib\[openvino\]'"):
        write.export(small, tmp_path / "out", ["openvino_int8"])
    with pytest.raises(ImportError, match="format onnx needs tf2onnx: pip install"):
        write.export(small, tmp_path / "out", ["onnx"])
    assert not list(tmp_path.iterdir())


def test_a_converter_that_fails_leaves_nothing(small, tmp_path, monkeypatch):
    def fail(source, folder):
        (folder / "half").write_text("written")
        raise OSError("some\nlong story\nno space left")

    monkeypatch.setitem(formats.FORMATS, "tfjs", formats.FORMATS["tfjs"]._replace(write=fail))
    with pytest.raises(RuntimeError, match="converter to tfjs failed, nothing was written: OSError: no space left"):
        write.export(small, tmp_path / "out", ["tfjs_uint16", "tfjs"])
    assert not list(tmp_path.iterdir())


def test_an_export_outside_its_tolerance_is_an_error_and_leaves_no_file(small, tmp_path, monkeypatch):
    def wrong(source, folder):
        other = keras.models.clone_model(source.model)
        other.set_weights([weight * 1.1 for weight in source.model.get_weights()])
        tfjs.write_tfjs(other, folder)

    monkeypatch.setitem(formats.FORMATS, "tfjs", formats.FORMATS["tfjs"]._replace(write=wrong))
    with pytest.raises(ValueError, match=r"tfjs: largest difference .*, at most 0\.001\. Nothing was written"):
        write.export(small, tmp_path / "out", ["tfjs"], views=8)
    assert not list(tmp_path.iterdir())


def test_answers_that_are_no_numbers_are_outside_every_tolerance():
    expected = np.full((2, 2), 0.5)
    found = np.array([[0.5, 0.5], [np.nan, 0.5]])
    assert parity.compare_answers(expected, found)["largest_difference"] == float("inf")
    assert parity.compare_answers(expected, np.array([[0.4, 0.6], [0.5, 0.5]])) == {
        "largest_difference": pytest.approx(0.1), "changed_argmax": 1, "changed_share": 0.5,
    }  # fmt: skip


def test_views_are_real_pixels_and_the_same_for_the_same_seed():
    first = pixels(6)
    assert first.shape == (6, 64, 64, 3) and first.dtype == np.uint8
    assert np.array_equal(first, pixels(6)) and len({view.tobytes() for view in first}) == 6
    assert np.array_equal(first[0], images.load_image(CHINA, size=64))


def test_the_figure_shows_each_format_with_its_numbers(exported):
    figure = evaluation.plot_parity(exported[1])
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["keras", *formats.FORMATS]
    assert [ax.get_title("left") for ax in figure.axes] == [
        "Size, MB", "Time, ms an image", "Largest difference of a probability",
    ]  # fmt: skip
    assert sum(text.get_text() == "not measured" for text in figure.axes[1].texts) == 3


def test_the_notebook_finds_pictures_whose_names_are_escaped_in_the_table(tmp_path):
    shutil.copy(CHINA, tmp_path / "a\nb\\c.jpg")
    table = pd.DataFrame({"path": [files.table_path("a\nb\\c.jpg")], "split": "val", "problem": ""})
    table.to_parquet(tmp_path / "images.parquet")
    cells = [cell.source for cell in nbformat.read(NOTEBOOK, 4).cells if cell.cell_type == "code"]
    (choice,) = (source for source in cells if "images.parquet" in source)
    names = {"data_dir": tmp_path, "run_dir": tmp_path, "own_pictures": 1, "pictures_dir": "", "views": 1, "seed": 0}
    names |= {"Path": Path, "pd": pd, "demo": demo, "files": files}
    exec(choice, names)
    assert len(names["pictures"]) == 3 and all(path.exists() for path in names["pictures"])


def test_the_published_model_equals_nsfwjs_in_node(node_modules):
    x = pixels(2, size=299)
    theirs, _ = parity.ask_nsfwjs("InceptionV3", x, size=299, node_modules=node_modules)
    ours = said(build.published_model(), x)
    assert np.abs(theirs - ours).max() < 1e-4


@pytest.mark.slow
def test_the_notebook_exports_the_published_model_and_asks_nsfwjs_itself(executed, node_modules):
    table = pd.read_csv(executed / "exports" / "parity.csv", index_col="format")
    assert table.loc["tfjs", "runtime"] == "nsfwjs in Node (wasm)" and table["ms_per_image"].gt(0).all()
    assert table["largest_difference"].drop("tflite_float16").lt(1e-4).all()
    assert table.loc[["savedmodel", "tfjs"], "files_difference"].between(1e-7, 0.1).all()
    assert table.loc["savedmodel", "size_mb"] < 1.1 * table.loc["keras", "size_mb"], "the weights lie in it once"
    assert (executed / "figures" / "parity.png").stat().st_size > 1000


def snippets(language):
    prose = "\n".join(cell.source for cell in nbformat.read(NOTEBOOK, 4).cells if cell.cell_type == "markdown")
    found = re.findall(rf"```{language}\n(.*?)```", prose, flags=re.DOTALL)
    return [code.replace("299", "224") for code in found]  # as the prose says: the size in preprocessing.json


def assert_china_is_neutral(answer):
    assert list(answer) == list(published.CLASS_NAMES) and max(answer, key=answer.get) == "neutral"
    assert answer["neutral"] == pytest.approx(0.998, abs=5e-3) and sum(answer.values()) == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("i", range(3))
def test_a_python_snippet_of_the_notebook_runs_as_it_is_without_this_kit(executed, i):
    code = snippets("python")[i]
    assert "nsfwlib" not in code and "keras" not in code
    without = 'import sys; sys.modules["nsfwlib"] = sys.modules["keras"] = None\n'
    assert_china_is_neutral(fresh_process(without + code, executed / "exports"))


def find_tool(name):
    return shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))


@pytest.mark.slow
def test_the_web_snippet_of_the_notebook_runs_as_it_is(executed, node_modules, tmp_path):
    npm = find_tool("npm")
    fetch = subprocess.run([npm, "install", "--ignore-scripts", "--prefix", tmp_path, "jpeg-js@0.4.4"], cwd=tmp_path)
    required(fetch.check_returncode)
    handler = partial(SimpleHTTPRequestHandler, directory=executed / "exports")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (tmp_path / "snippet.js").write_text(snippets("js")[0])
        modules = os.pathsep.join([str(node_modules), str(tmp_path / "node_modules")])
        done = subprocess.run(
            [find_tool("node"), tmp_path / "snippet.js", f"http://127.0.0.1:{server.server_port}/tfjs/"],
            capture_output=True, text=True, cwd=executed / "exports", env={**os.environ, "NODE_PATH": modules},
        )  # fmt: skip
        server.shutdown()
    assert done.returncode == 0, done.stderr
    assert_china_is_neutral(json.loads(done.stdout.splitlines()[-1]))
