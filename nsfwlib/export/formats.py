"""Which formats are there, how is each written, and what must an application give it?"""

import importlib.util
import json
import shutil
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nsfwlib import runs
from nsfwlib._tensorflow import keras, tf
from nsfwlib.export.parity import Runtime, open_onnx, open_openvino, open_savedmodel, open_tfjs, open_tflite
from nsfwlib.export.tfjs import write_tfjs
from nsfwlib.model import CLASS_NAMES, class_names, image_size, quantised, require_openvino

OPSET = 17  # of ONNX


class Source:
    """A classifier, and what several formats are made from."""

    def __init__(self, model: keras.Model, calibration: np.ndarray, scratch: Path) -> None:
        self.model, self.calibration, self._scratch = model, calibration, scratch
        self.class_names, self.size = class_names(model), image_size(model)

    @cached_property
    def graph(self) -> tf.types.experimental.PolymorphicFunction:
        """ "pixels", uint8 RGB (B, S, S, 3), in; "probabilities" (B, K) out.

        Weights are constants, which TFLite can quantise and TensorFlow fold. 8-bit RGB: pictures divided by 255, the
        commonest mistake, are an error and not a wrong answer.
        """
        variables = (self.model.trainable_variables, self.model.non_trainable_variables)
        constants = [[np.asarray(variable) for variable in some] for some in variables]

        @tf.function(input_signature=[tf.TensorSpec((None, self.size, self.size, 3), tf.uint8, name="pixels")])
        def serving_default(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
            floats = tf.cast(pixels, tf.float32)
            return {"probabilities": self.model.stateless_call(*constants, floats, training=False)[0]}

        return serving_default

    @cached_property
    def saved(self) -> Path:
        """A SavedModel with two signatures, which share its weights."""

        @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="image")])
        def from_bytes(image: tf.Tensor) -> dict[str, tf.Tensor]:
            form = tf.TensorSpec((self.size, self.size, 3), tf.uint8)
            return self.graph(tf.map_fn(lambda data: _decode(data, self.size), image, fn_output_signature=form))

        folder, signatures = self._scratch / "saved", {"serving_default": self.graph, "bytes": from_bytes}
        tf.saved_model.save(tf.Module(), str(folder), signatures=signatures)
        return folder


class Format(NamedTuple):
    """How a format is written, opened again, and how far it may differ."""

    write: Callable[[Source, Path], object]
    open: Callable[..., Runtime]
    tolerated: str  # the column of the parity table that is held against the tolerance
    tolerance: float
    about: str
    limits: str = ""  # what was given up for a smaller file
    needs: tuple[str, ...] = ()
    web: bool = False  # for nsfwjs, which divides by 255 itself

    def missing(self) -> str:
        """What to install before it can be written; "" where nothing is missing."""
        absent = [package for package in self.needs if importlib.util.find_spec(package) is None]
        return f"needs {', '.join(absent)}: pip install 'nsfwlib[{self.needs[0]}]'" if absent else ""


def _decode(data: tf.Tensor, size: int) -> tf.Tensor:
    """Bytes of a JPEG or PNG → uint8 (size, size, 3), on white: `data.load_image` but for EXIF, ICC and ±2 of 255."""

    def png() -> tf.Tensor:
        rgba = tf.cast(tf.io.decode_png(data, channels=4), tf.float32)
        share = rgba[..., 3:] / 255
        return rgba[..., :3] * share + 255 * (1 - share)

    jpeg = partial(tf.io.decode_jpeg, data, channels=3, dct_method="INTEGER_ACCURATE")
    picture = tf.round(tf.cond(tf.io.is_jpeg(data), lambda: tf.cast(jpeg(), tf.float32), png))
    # antialias=True: Pillow widens its triangle when it shrinks a picture, plain bilinear does not
    resized = tf.image.resize(picture, (size, size), method="bilinear", antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)


def _tflite(source: Source, folder: Path, precision: str = "float32") -> None:
    converter = tf.lite.TFLiteConverter.from_saved_model(str(source.saved), signature_keys=["serving_default"])
    if precision == "float16":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    found = converter.convert()
    if precision == "int8":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ({"pixels": pixels[None]} for pixels in source.calibration)
        debug = tf.lite.experimental.QuantizationDebugOptions(denylisted_nodes=_head_tensors(found))
        found = tf.lite.experimental.QuantizationDebugger(
            converter=converter, debug_options=debug
        ).get_nondebug_quantized_model()
    (folder / "model.tflite").write_bytes(found)


def _head_tensors(model: bytes) -> list[str]:
    """Names of what no convolution follows: the spread of features differs too much for eight bits in common."""
    reader = tf.lite.Interpreter(model_content=model)
    names, needed, found = {part["index"]: part["name"] for part in reader.get_tensor_details()}, set(), []
    for step in reversed(reader._get_ops_details()):  # no public function tells what feeds what
        if "CONV" in step["op_name"] or needed.intersection(step["outputs"]):
            needed.update(step["inputs"])
        else:
            found += [names[index] for index in step["outputs"]]
    return found


def _onnx(source: Source, folder: Path) -> None:
    import onnx
    import tf2onnx

    document, _ = tf2onnx.convert.from_function(source.graph, input_signature=source.graph.input_signature, opset=OPSET)
    onnx.helper.set_model_props(document, {"class_names": json.dumps(source.class_names)})
    onnx.checker.check_model(document)
    onnx.save(document, folder / "model.onnx")
    taken = {"size": source.size, "layout": "NHWC", "channels": "RGB", "scale": 1, "offset": 0, "softmax": True}
    runs.write_json({"labels": source.class_names, **taken}, folder / "model.json")


def _openvino(source: Source, folder: Path, precision: str = "float32") -> None:
    openvino = require_openvino()
    network = openvino.convert_model(source.graph.get_concrete_function())
    network = quantised(network, source.calibration) if precision == "int8" else network
    openvino.save_model(network, folder / "model.xml", compress_to_fp16=False)


def _tfjs(source: Source, folder: Path, quantised: str | None = None) -> None:
    write_tfjs(source.model, folder, quantised=quantised)


_BY, _CHANGED = "largest_difference", "changed_share"
_AGAIN = "probabilities move by hundredths, so choose thresholds anew on this file"
FORMATS = {
    "savedmodel": Format(lambda source, folder: shutil.copytree(source.saved, folder, dirs_exist_ok=True),
                         open_savedmodel, _BY, 1e-4, "TensorFlow and TensorFlow Serving"),
    "tflite_float32": Format(_tflite, open_tflite, _BY, 1e-4, "phones"),
    "tflite_float16": Format(partial(_tflite, precision="float16"), open_tflite, _BY, 1e-2, "phones, half the size",
                             "weights in half precision"),
    "tflite_int8": Format(
        partial(_tflite, precision="int8"), open_tflite, _CHANGED, 0.02, "phones, a quarter of the size, faster",
        f"weights and activations in 8 bits, their ranges taken from the representative photographs: {_AGAIN}"),
    "onnx": Format(_onnx, open_onnx, _BY, 1e-4, "ONNX Runtime", needs=("onnx", "onnxruntime", "tf2onnx")),
    "openvino": Format(_openvino, open_openvino, _BY, 1e-4, "servers with a CPU: OpenVINO", needs=("openvino",)),
    "openvino_int8": Format(
        partial(_openvino, precision="int8"), open_openvino, _CHANGED, 0.02, "servers with a CPU, faster",
        f"as tflite_int8: {_AGAIN}", needs=("openvino", "nncf")),
    "tfjs": Format(_tfjs, open_tfjs, _BY, 1e-3, "browsers: nsfwjs, TensorFlow.js", web=True),
    "tfjs_uint16": Format(partial(_tfjs, quantised="uint16"), open_tfjs, _BY, 1e-3, "browsers, half the size",
                          "kernels quantised to 16 bits per tensor", web=True),
    "tfjs_uint8": Format(partial(_tfjs, quantised="uint8"), open_tfjs, _CHANGED, 0.02, "browsers, a quarter",
                         f"kernels quantised to 8 bits per tensor: {_AGAIN}", web=True),
}  # fmt: skip


def preprocessing(name: str, source: Source) -> dict[str, Any]:
    """What an application must do before it asks the export."""
    form, size = FORMATS[name], source.size
    facts = {
        "for": form.about,
        "input": {"dtype": "float32" if form.web else "uint8", "shape": ["batch", size, size, 3], "channels": "RGB"},
        "range": [0, 1] if form.web else [0, 255],
        "scaling": "divide by 255: nsfwjs does that itself" if form.web else "none: the model rescales",
        "decoding": "upright by EXIF, sRGB, transparency on white, first frame of an animation",
        "resize": f"Pillow BILINEAR (antialiased), stretched to {size} × {size}, aspect ratio not kept",
        "output": {"dtype": "float32", "shape": ["batch", len(source.class_names)], "order": "classes.json"},
        **({"limits": form.limits} if form.limits else {}),
    }
    if name == "savedmodel":
        facts["signatures"] = {
            "serving_default": "pixels: uint8 (batch, S, S, 3) → probabilities",
            "bytes": "image: string (batch,), the bytes of JPEG or PNG files → probabilities; decoded and resized by "
            "TensorFlow, which ignores EXIF rotation and colour profiles",
        }
    if form.web:
        same = tuple(source.class_names) == CLASS_NAMES
        others = "classify() always says Drawing, Hentai, Neutral, Porn, Sexy: use infer() and classes.json."
        said = "classify() names these classes." if same else others
        facts["nsfwjs"] = f"nsfwjs.load(url, {{size: {size}}}); it resizes by itself, corners aligned. {said}"
    return facts
