"""How does a network of others answer? From an ONNX file, and a small JSON beside it that says what it is given."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from nsfwlib.model.runtime import require_openvino

EXAMPLE = {
    "labels": ["normal", "nsfw"],  # in the order of the outputs
    "size": 224,  # pixels a side
    "layout": "NCHW",  # or NHWC
    "channels": "RGB",  # or BGR
    "scale": 0.00784314,  # the network is given value * scale + offset, value 0–255; one number, or one a channel
    "offset": -1.0,
    "softmax": False,  # is it inside the network already?
}


def read_description(path: Path) -> dict[str, Any]:
    """What `<name>.json` beside an ONNX file says, with the keys of `EXAMPLE`.

    Raises:
        ValueError: it is not there, or a key is missing, unknown, or has no such value.
    """
    beside = path.with_suffix(".json")
    wanted = f"Expected {beside} like {json.dumps(EXAMPLE)}."
    try:
        found = json.loads(beside.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"An ONNX file does not say what it is given. {wanted} Received: no such file.") from None
    except ValueError as error:
        raise ValueError(f"{wanted} Received: no JSON ({error}).") from None
    if not isinstance(found, dict) or set(found) != set(EXAMPLE):
        keys = sorted(set(found) ^ set(EXAMPLE)) if isinstance(found, dict) else type(found).__name__
        raise ValueError(f"{wanted} Received other keys: {keys} missing or unknown.")
    sizes = {np.size(found[name]) for name in ("scale", "offset")}
    if found["layout"] not in ("NCHW", "NHWC") or found["channels"] not in ("RGB", "BGR") or sizes - {1, 3}:
        raise ValueError(f"{wanted} Received: {json.dumps(found)}.")
    if not np.all(found["scale"]):
        raise ValueError(f"{wanted} Received a scale of 0.")
    return found


def convert_onnx(path: Path, described: dict[str, Any], target: Path) -> None:
    """Write an ONNX file as a converted model: RGB 0–255, float32 (B, S, S, 3), in; probabilities (B, K) out.

    Raises:
        ValueError: the network does not give as many numbers as there are labels.
    """
    openvino = require_openvino()
    from openvino import opset13

    model, size = openvino.Core().read_model(path), described["size"]
    shape = [-1, 3, size, size] if described["layout"] == "NCHW" else [-1, size, size, 3]
    model.reshape(shape)
    scale, offset = (np.broadcast_to(described[name], 3).astype(float) for name in ("scale", "offset"))
    steps = openvino.preprocess.PrePostProcessor(model)
    colours = openvino.preprocess.ColorFormat
    tensor = steps.input().tensor().set_element_type(openvino.Type.f32).set_layout(openvino.Layout("NHWC"))
    tensor.set_color_format(colours.RGB)
    if described["channels"] == "BGR":
        steps.input().preprocess().convert_color(colours.BGR)
    steps.input().preprocess().mean(list(-offset / scale)).scale(list(1 / scale))
    steps.input().model().set_layout(openvino.Layout(described["layout"]))
    model = steps.build()
    answer = model.outputs[0].get_node().input_value(0)
    if not described["softmax"]:
        answer = opset13.softmax(answer, -1).output(0)
    answer.get_tensor().set_names({"probabilities"})
    model = openvino.Model([opset13.result(answer)], model.get_parameters())
    given = model.outputs[0].get_partial_shape()
    if given.rank.get_length() != 2 or given[1] != len(described["labels"]):
        count = len(described["labels"])
        raise ValueError(f"Expected {count} numbers a picture, one a label. Received: shape {given}.")
    openvino.save_model(model, target, compress_to_fp16=False)
