"""How does the model leave the notebook? In the formats of servers, phones and browsers, each checked for parity.

Every format takes 8-bit RGB at the model's size; only nsfwjs, which divides by 255 itself, is given a network without
that step. An export that disagrees with the Keras model by more than its tolerance is an error and leaves no file.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nsfwlib import engine, parity, published, runs, tfjs
from nsfwlib import model as classifiers  # before Keras and TensorFlow: it keeps them quiet
from nsfwlib.notebook import stderr_aside

import keras  # isort: skip
import tensorflow as tf  # isort: skip


class Source:
    """A classifier, and what several formats are made from."""

    def __init__(self, model: keras.Model, calibration: np.ndarray, scratch: Path) -> None:
        self.model, self.calibration, self._scratch = model, calibration, scratch
        self.class_names, self.size = classifiers.class_names(model), classifiers.image_size(model)

    @property
    def signature(self) -> tf.TensorSpec:
        """8-bit RGB: pictures divided by 255, the commonest mistake, are an error and not a wrong answer."""
        return tf.TensorSpec((None, self.size, self.size, 3), tf.uint8, name="pixels")

    @cached_property
    def saved(self) -> Path:
        """A SavedModel with two signatures; weights are constants, which TFLite can quantise and TensorFlow fold."""
        trainable, others = (
            [np.asarray(variable) for variable in variables]
            for variables in (self.model.trainable_variables, self.model.non_trainable_variables)
        )

        @tf.function(input_signature=[self.signature])
        def network(
            pixels: tf.Tensor,
        ) -> tf.Tensor:  # one function, called by both signatures: the weights lie in it once
            return self.model.stateless_call(trainable, others, tf.cast(pixels, tf.float32), training=False)[0]

        @tf.function(input_signature=[self.signature])
        def serving_default(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"probabilities": network(pixels)}

        @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="image")])
        def from_bytes(image: tf.Tensor) -> dict[str, tf.Tensor]:
            form = tf.TensorSpec((self.size, self.size, 3), tf.uint8)
            decoded = tf.map_fn(lambda data: _decode(data, self.size), image, fn_output_signature=form)
            return {"probabilities": network(decoded)}

        folder = self._scratch / "saved"
        tf.saved_model.save(
            tf.Module(), str(folder), signatures={"serving_default": serving_default, "bytes": from_bytes}
        )
        return folder


class Format(NamedTuple):
    """How a format is written, opened again, and how far it may differ."""

    write: Callable[[Source, Path], None]
    open: Callable[..., parity.Runtime]
    tolerated: str  # the column of the parity table that is held against the tolerance
    tolerance: float
    about: str
    needs: tuple[str, ...] = ()


def _savedmodel(source: Source, folder: Path) -> None:
    shutil.copytree(source.saved, folder, dirs_exist_ok=True)


def _decode(data: tf.Tensor, size: int) -> tf.Tensor:
    """Bytes of a JPEG or PNG → uint8 (size, size, 3), on white, as near to `images.load_image` as TensorFlow comes.

    Where it differs: EXIF rotation and colour profiles are ignored, resized pixels may be off by one or two of 255.
    """

    def png() -> tf.Tensor:
        rgba = tf.cast(tf.io.decode_png(data, channels=4), tf.float32)
        share = rgba[..., 3:] / 255
        return rgba[..., :3] * share + 255 * (1 - share)

    def jpeg() -> tf.Tensor:
        return tf.cast(tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE"), tf.float32)

    picture = tf.round(tf.cond(tf.io.is_jpeg(data), jpeg, png))
    # antialias=True: Pillow widens its triangle when it shrinks a picture, plain bilinear does not
    resized = tf.image.resize(picture, (size, size), method="bilinear", antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)


def _tflite(source: Source, folder: Path, **settings: Any) -> None:
    converter = tf.lite.TFLiteConverter.from_saved_model(str(source.saved), signature_keys=["serving_default"])
    for name, value in settings.items():
        setattr(converter, name, value)
    (folder / "model.tflite").write_bytes(converter.convert())


def _tflite_float16(source: Source, folder: Path) -> None:
    target = tf.lite.TargetSpec(supported_types=[tf.float16])
    _tflite(source, folder, optimizations=[tf.lite.Optimize.DEFAULT], target_spec=target)


def _tflite_int8(source: Source, folder: Path) -> None:
    def representative() -> Iterator[dict[str, np.ndarray]]:
        yield from ({"pixels": pixels[None]} for pixels in source.calibration)

    _tflite(source, folder, optimizations=[tf.lite.Optimize.DEFAULT], representative_dataset=representative)


def _onnx(source: Source, folder: Path) -> None:
    import onnx

    document = onnx.load(engine.onnx_file(source.model, folder / "model.onnx"))
    taken = document.graph.input[0]
    for node in document.graph.node:  # the converter's input is float32: put a cast of 8-bit pixels before it
        node.input[:] = ["pixels_float32" if name == taken.name else name for name in node.input]
    cast = onnx.helper.make_node("Cast", ["pixels"], ["pixels_float32"], to=onnx.TensorProto.FLOAT)
    document.graph.node.insert(0, cast)
    taken.type.tensor_type.elem_type = onnx.TensorProto.UINT8
    onnx.helper.set_model_props(document, {"class_names": json.dumps(source.class_names)})
    onnx.checker.check_model(document)
    onnx.save(document, folder / "model.onnx")


def _tfjs(source: Source, folder: Path) -> None:
    tfjs.write(source.model, folder, metadata={"class_names": source.class_names})


def _tfjs_uint8(source: Source, folder: Path) -> None:
    tfjs.write(source.model, folder, quantised=True, metadata={"class_names": source.class_names})


FORMATS = {
    "savedmodel": Format(_savedmodel, parity.open_savedmodel, "largest_difference", 1e-4, "TensorFlow and its servers"),
    "tflite_float32": Format(_tflite, parity.open_tflite, "largest_difference", 1e-4, "phones"),
    "tflite_float16": Format(_tflite_float16, parity.open_tflite, "largest_difference", 1e-2, "phones, half the size"),
    "tflite_int8": Format(_tflite_int8, parity.open_tflite, "changed_share", 0.02, "phones, a quarter of the size"),
    "onnx": Format(
        _onnx, parity.open_onnx, "largest_difference", 1e-4, "onnxruntime", ("onnx", "onnxruntime", "tf2onnx")
    ),
    "tfjs": Format(_tfjs, parity.open_tfjs, "largest_difference", 1e-3, "browsers: nsfwjs and TensorFlow.js"),
    "tfjs_uint8": Format(_tfjs_uint8, parity.open_tfjs, "changed_share", 0.02, "browsers, a quarter of the size"),
}


def export(
    model: keras.Model,
    out_dir: Path,
    formats: Sequence[str] = tuple(FORMATS),
    *,
    pictures: Sequence[Path] | None = None,
    representative: Sequence[Path] | None = None,
    views: int = 64,
    node_modules: Path | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Write `model` in each of `formats` to `<out_dir>/<format>/`, checked against the model itself; all or nothing.

    Beside each export lie `classes.json` (names in the order of the outputs) and `preprocessing.json` (what it must be
    given); `parity.csv` holds the table.

    Args:
        model: a classifier: raw RGB 0–255 (B, S, S, 3) → probabilities (B, K).
        out_dir: a folder that does not exist yet.
        formats: keys of `FORMATS`.
        pictures: photographs to compare on, at least two; by default those that installed packages ship.
        representative: photographs from which int8 takes the ranges of its numbers; by default every second one of
            `pictures`, and the comparison then uses the others.
        views: how many pixel arrays to compare: the pictures, and windows of them.
        node_modules: as from `tfjs_node.install`: the web formats are asked through nsfwjs in Node, and timed. Without
            it their files are read back and run by Keras.
        seed: of the windows.

    Returns:
        One row a format, after "keras" itself: `path`, `size_mb`, `ms_per_image` (one picture at a time, median),
        `largest_difference` of a probability on equal pixel arrays, `changed_argmax` and its `changed_share` of
        `pictures`, `tolerated` (the column that is limited) and `tolerance`, `files_difference` and `files_changed`
        where the format decodes or resizes by itself, and the `runtime` that answered.

    Raises:
        ValueError: an unknown format, a model that does not take raw RGB, or an export outside its tolerance.
        FileExistsError: `out_dir` exists.
        ImportError: a format needs a package that is not installed.
        RuntimeError: a converter failed.
    """
    names, out_dir = _checked_formats(formats), Path(out_dir)
    _check_model(model)
    if out_dir.exists():
        raise FileExistsError(
            f"out_dir must not exist yet: an export in use is never overwritten. Received: {out_dir}. Choose another "
            "folder, or move that one away."
        )
    pictures = [Path(path) for path in (parity.shipped_photographs() if pictures is None else pictures)]
    if len(pictures) < 2:
        raise ValueError(f"pictures must be two or more photographs. Received: {len(pictures)}.")
    if representative is None:
        pictures, representative = pictures[::2], pictures[1::2]
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out_dir.parent, prefix=f".{out_dir.name}.") as scratch:
        whole = Path(scratch) / "whole"
        whole.mkdir()
        size = classifiers.image_size(model)
        calibration = parity.views(list(representative), size=size, count=views, seed=seed + 1)
        source = Source(model, calibration, Path(scratch))
        for name in names:
            _write(name, source, whole / name)
        pixels = parity.views(pictures, size=size, count=views, seed=seed)
        table = _parity_table(source, whole, names, pixels, pictures, node_modules)
        _check_tolerances(table)
        _record(source, whole, table)
        os.replace(whole, out_dir)  # noqa: PTH105
    return table


def _checked_formats(formats: Sequence[str]) -> list[str]:
    names = [formats] if isinstance(formats, str) else list(dict.fromkeys(formats))
    unknown = [name for name in names if name not in FORMATS]
    if unknown or not names:
        raise ValueError(f"formats must be some of {', '.join(FORMATS)}. Received: {', '.join(map(str, unknown))!r}.")
    for name in names:
        missing = [package for package in FORMATS[name].needs if importlib.util.find_spec(package) is None]
        if missing:
            raise ImportError(f"The format {name} needs {', '.join(missing)}. Run: pip install 'nsfwlib[onnx]'")
    return names


def _check_model(model: keras.Model) -> None:
    """Raw RGB in means: one square input of three channels, and its rescaling is the first layer."""
    classifiers.class_names(model)
    shape, first = model.input_shape, model.layers[1]
    square = isinstance(shape, tuple) and len(shape) == 4 and shape[1] == shape[2] and shape[3] == 3 and shape[1]
    if not square or not isinstance(first, keras.layers.Rescaling):
        raise ValueError(
            "Expected a model that takes raw RGB 0–255, (batch, S, S, 3), and rescales it in its first layer. "
            f"Received: {model.name!r} with input {shape} and first layer {first.name!r}. Build it with "
            "nsfwlib.model.build_classifier."
        )


def _write(name: str, source: Source, folder: Path) -> None:
    folder.mkdir()
    try:
        with stderr_aside():
            FORMATS[name].write(source, folder)
    except (ValueError, ImportError):
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[-1][:300]
        raise RuntimeError(
            f"The converter to {name} failed, nothing was written: {type(error).__name__}: {reason}. Leave {name} out "
            "of formats to export the others."
        ) from error
    facts = _preprocessing(name, source)
    for file, content in (("classes.json", source.class_names), ("preprocessing.json", facts)):
        (folder / file).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _preprocessing(name: str, source: Source) -> dict[str, Any]:
    """What an application must do before it asks the export."""
    web, size = name.startswith("tfjs"), source.size
    facts = {
        "for": FORMATS[name].about,
        "input": {"dtype": "float32" if web else "uint8", "shape": ["batch", size, size, 3], "channels": "RGB"},
        "range": [0, 1] if web else [0, 255],
        "scaling": "divide by 255: nsfwjs does that itself" if web else "none: the model rescales",
        "decoding": "upright by EXIF, sRGB, transparency on white, first frame of an animation",
        "resize": f"Pillow BILINEAR (antialiased), stretched to {size} × {size}, aspect ratio not kept",
        "output": {"dtype": "float32", "shape": ["batch", len(source.class_names)], "order": "classes.json"},
    }
    if name == "savedmodel":
        facts["signatures"] = {
            "serving_default": "pixels: uint8 (batch, S, S, 3) → probabilities",
            "bytes": "image: string (batch,), the bytes of JPEG or PNG files → probabilities; decoded and resized by "
            "TensorFlow, which ignores EXIF rotation and colour profiles",
        }
    if web:
        same = tuple(source.class_names) == published.CLASS_NAMES
        facts["nsfwjs"] = f"nsfwjs.load(url, {{size: {size}}}); it resizes by itself, corners aligned. " + (
            "classify() names these classes." if same else
            "classify() always says Drawing, Hentai, Neutral, Porn, Sexy: use infer() and classes.json."
        )  # fmt: skip
    return facts


def _parity_table(
    source: Source, whole: Path, names: Sequence[str], pixels: np.ndarray, files: Sequence[Path], node: Path | None
) -> pd.DataFrame:
    files = [path for path in files if path.suffix.lower() in (".jpg", ".jpeg", ".png")]
    keras_runtime = parity.open_keras(source.model)
    expected, milliseconds = keras_runtime.answer(pixels)
    rows = {
        "keras": {
            "size_mb": source.model.count_params() * 4 / 1e6,
            **parity.measure(source.model, keras_runtime, pixels=pixels[:1], files=(), expected=expected[:1]),
            "ms_per_image": milliseconds,
            "pictures": len(pixels),
        }
    }
    for name in names:
        each = FORMATS[name]
        settings = {"size": source.size, "node_modules": node} if name.startswith("tfjs") else {}
        with stderr_aside():
            runtime = each.open(whole / name, **settings)
            row = parity.measure(source.model, runtime, pixels=pixels, files=files, expected=expected)
        size = sum(path.stat().st_size for path in (whole / name).rglob("*") if path.is_file()) / 1e6
        rows[name] = {"path": name, "size_mb": size, **row, "tolerated": each.tolerated, "tolerance": each.tolerance}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("format")
    order = ["path", "size_mb", "ms_per_image", "largest_difference", "changed_argmax", "changed_share", "pictures"]
    order += ["tolerated", "tolerance", "files_difference", "files_changed", "files", "runtime"]
    return table.reindex(columns=order)


def _check_tolerances(table: pd.DataFrame) -> None:
    wrong = [
        f"{name}: {row['tolerated'].replace('_', ' ')} {row[row['tolerated']]:.2g}, at most {row['tolerance']:g}"
        for name, row in table.iloc[1:].iterrows()
        if not row[row["tolerated"]] <= row["tolerance"]
    ]
    if wrong:
        raise ValueError(
            f"An export must give the answers of the model on {table['pictures'].iloc[0]} pictures. Received: "
            f"{'; '.join(wrong)}. Nothing was written. Leave the format out, or, for int8, give representative "
            "photographs like those it will see."
        )


def _record(source: Source, whole: Path, table: pd.DataFrame) -> None:
    table.to_csv(whole / "parity.csv")
    settings = {"model": engine.identity(source.model), "formats": list(table.index[1:])}
    versions = {"tensorflow": tf.__version__, "keras": keras.__version__}
    runs.write_json(
        {"settings": settings, "versions": versions, "class_names": source.class_names}, whole / "export.json"
    )
