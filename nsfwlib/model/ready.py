"""Which model scores, and is it converted already? Then it answers without TensorFlow, in fewer bits if asked to.

A network of others is an ONNX file, and a small JSON beside it that says what it is given.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from platformdirs import user_cache_path
from tqdm.auto import tqdm

from nsfwlib import runs
from nsfwlib.files import file_hash
from nsfwlib.model.published import INTEGRITY, VERSION
from nsfwlib.model.runtime import (
    Sample,
    choose_precision,
    keep_converted,
    kept_hash,
    kept_path,
    open_converted,
    openvino_usable,
    require_openvino,
)
from nsfwlib.model.stream import Forward

if TYPE_CHECKING:
    import keras

EXAMPLE = {
    "labels": ["normal", "nsfw"],  # in the order of the outputs
    "size": 224,  # pixels a side
    "layout": "NCHW",  # or NHWC
    "channels": "RGB",  # or BGR
    "scale": 0.00784314,  # the network is given value * scale + offset, value 0–255; one number, or one a channel
    "offset": -1.0,
    "softmax": False,  # is it inside the network already?
}


class Ready(NamedTuple):
    """A model that can score, known by `model_identity`; without a `classifier` its converted file is all it takes."""

    class_names: list[str]
    size: int
    identity: str
    cache_dir: Path
    classifier: keras.Model | None
    precision: str = "float32"  # that it computes in
    agreement: dict[str, Any] | None = None  # of its answers with those in float32

    def file(self) -> Path:
        """Where its converted file is, if it was converted."""
        return kept_path(self.cache_dir, [self.identity])

    def check(self) -> str:
        """16 hex digits that bind names, their order, size and identity to the content of the converted file."""
        bound = [self.class_names, self.size, self.identity, kept_hash(self.file())]
        return hashlib.sha256(json.dumps(bound).encode()).hexdigest()[:16]

    def forward(self, runtime: str) -> Forward:
        """What computes; see `model.forward_pass`."""
        if self.classifier is None:
            return open_converted(self.file(), precision=self.precision)
        from nsfwlib.model.forward import forward_pass

        return forward_pass(self.classifier, runtime=runtime, cache_dir=self.cache_dir)

    def lowered(self, precision: str, sample: Sample) -> Ready:
        """The same in `precision`, as `model.choose_precision` has it; a ValueError where TensorFlow would compute."""
        if self.classifier is None:
            chosen, found = choose_precision(self.file(), precision, sample, size=self.size)
            return self._replace(precision=chosen, agreement=found)
        if precision in ("auto", "float32"):
            return self
        raise ValueError(
            f"precision={precision!r} needs OpenVINO on a processor, and a model given by name or file. Received: "
            "one that TensorFlow computes. Run: pip install 'nsfwlib[openvino]', or use precision='float32'."
        )


def make_ready(
    model: keras.Model | Path | str,
    *,
    runtime: str,
    cache_dir: Path | None = None,
    class_names: Sequence[str] | None = None,
    rescaling: tuple[float, float] = (1 / 255, 0.0),
    progress: bool = True,
) -> Ready:
    """`resolve_model`, or what was noted of the same name or file when it was converted.

    Args:
        model: as in `resolve_model`, or an `.onnx` file with a JSON beside it (see `model.read_description`), as are
            `class_names`, `rescaling` and the errors.
        runtime: "tensorflow" never converts; "openvino" (an ImportError where it is not installed) and "auto" do what
            is given by name or file, on a CPU; what cannot be, "auto" leaves to TensorFlow.
        cache_dir: where converted models are kept; the user's cache folder by default.
    """
    if runtime == "openvino":
        require_openvino()
    cache_dir, note = Path(cache_dir or user_cache_path("nsfwlib")), None
    if isinstance(model, str | os.PathLike):
        if (path := Path(model)).suffix == ".onnx":
            described = read_description(path)
            key = hashlib.sha256(f"{file_hash(path)} {json.dumps(described, sort_keys=True)}".encode()).hexdigest()
            ready = Ready(described["labels"], described["size"], key[:16], cache_dir, None)
            keep_converted(ready.file(), partial(_wrapped, path, described))
            return ready
        there = model == "published" or path.is_file()
        if there and runtime != "tensorflow" and class_names is None and openvino_usable():
            content = f"InceptionV3 {VERSION} {INTEGRITY}".encode()
            key = hashlib.sha256(content).hexdigest() if model == "published" else file_hash(path)
            note = cache_dir / "openvino" / f"{key[:32]}.json"
            if known := _noted(note, cache_dir):
                return known
    from nsfwlib.model.build import resolve_model
    from nsfwlib.model.classifier import class_names as names_of, image_size
    from nsfwlib.model.forward import converted, model_identity

    classifier = resolve_model(model, class_names=class_names, rescaling=rescaling)
    ready = Ready(names_of(classifier), image_size(classifier), model_identity(classifier), cache_dir, classifier)
    if note is None:
        return ready
    try:
        with tqdm(total=1, desc="converting, once for this model", disable=not progress) as bar:
            converted(classifier, cache_dir=cache_dir)
            bar.update()
    except Exception as error:  # of the converter, which raises many kinds
        if runtime == "openvino":
            raise
        warnings.warn(f"The model was not converted, and TensorFlow scores: {error}", stacklevel=3)
        return ready
    noted = {"class_names": ready.class_names, "size": ready.size, "identity": ready.identity}
    runs.write_json({**noted, "check": ready.check()}, note)
    return ready._replace(classifier=None)


def read_description(path: Path) -> dict[str, Any]:
    """What `<name>.json` beside an ONNX file says; a ValueError where it is not like `EXAMPLE`, or not there."""
    beside = path.with_suffix(".json")
    wanted = f"Expected {beside} like {json.dumps(EXAMPLE)}. Received"
    try:
        found = json.loads(beside.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(f"An ONNX file does not say what it is given. {wanted}: {error}.") from None
    if keys := sorted({*found} ^ {*EXAMPLE} if isinstance(found, dict) else EXAMPLE):
        raise ValueError(f"{wanted} other keys: {keys} missing or unknown.")
    sizes = {np.size(found[name]) for name in ("scale", "offset")}
    if found["layout"] not in ("NCHW", "NHWC") or found["channels"] not in ("RGB", "BGR") or sizes - {1, 3}:
        raise ValueError(f"{wanted}: {json.dumps(found)}.")
    if not np.all(found["scale"]):
        raise ValueError(f"{wanted} a scale of 0.")
    return found


def _wrapped(path: Path, described: dict[str, Any], openvino: Any) -> Any:
    """An ONNX file as a model of OpenVINO's: RGB 0–255, float32 (B, S, S, 3), in; probabilities (B, K) out."""
    from openvino import opset13

    model, size, layout = openvino.Core().read_model(path), described["size"], described["layout"]
    model.reshape([-1, 3, size, size] if layout == "NCHW" else [-1, size, size, 3])
    scale, offset = (np.broadcast_to(described[name], 3).astype(float) for name in ("scale", "offset"))
    steps = openvino.preprocess.PrePostProcessor(model)
    colours = openvino.preprocess.ColorFormat
    tensor = steps.input().tensor().set_element_type(openvino.Type.f32).set_layout(openvino.Layout("NHWC"))
    tensor.set_color_format(colours.RGB)
    if described["channels"] == "BGR":
        steps.input().preprocess().convert_color(colours.BGR)
    steps.input().preprocess().mean(list(-offset / scale)).scale(list(1 / scale))
    steps.input().model().set_layout(openvino.Layout(layout))
    model = steps.build()
    answer = model.outputs[0].get_node().input_value(0)
    if not described["softmax"]:
        answer = opset13.softmax(answer, -1).output(0)
    answer.get_tensor().set_names({"probabilities"})
    given, count = answer.get_partial_shape(), len(described["labels"])
    if given.rank.get_length() != 2 or given[1] != count:
        raise ValueError(f"Expected {count} numbers a picture, one a label. Received: shape {given}.")
    return openvino.Model([opset13.result(answer)], model.get_parameters())


def _noted(note: Path, cache_dir: Path) -> Ready | None:
    """What was noted when the model was converted, if its ONNX file is there and the note is as it was written."""
    try:
        noted = runs.read_json(note)
        check = noted.pop("check", None)
        ready = Ready(**noted, cache_dir=cache_dir, classifier=None)
    except (FileNotFoundError, ValueError, TypeError):  # none, cut short, or another version's
        return None
    return ready if ready.file().exists() and check == ready.check() else None
