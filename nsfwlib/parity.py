"""Does an export give the same answers? Each format run by its own runtime on the same pictures as the Keras model."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import sklearn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nsfwlib import look
from nsfwlib import model as classifiers  # before Keras and TensorFlow: it keeps them quiet
from nsfwlib.images import load_image

import keras  # isort: skip
import tensorflow as tf  # isort: skip

Predict = Callable[[np.ndarray], np.ndarray]


class Runtime(NamedTuple):
    """An export, opened."""

    name: str
    answer: Callable[[np.ndarray], tuple[np.ndarray, float]]  # uint8 (N, S, S, 3) → (N, K), milliseconds a picture
    from_files: Callable[[Sequence[Path]], np.ndarray] | None = None  # paths → (N, K), where it decodes or resizes


def shipped_photographs() -> list[Path]:
    """Safe photographs that installed packages ship: three, or fifteen where scikit-image is installed."""
    samples = Path(sklearn.__file__).parent / "datasets" / "images"
    found = [samples / "china.jpg", samples / "flower.jpg"]
    found.append(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg")
    try:
        import skimage
    except ImportError:
        return found
    names = ("chelsea", "coffee", "astronaut", "camera", "coins", "brick", "grass", "gravel", "moon", "motorcycle_left")
    folder = Path(skimage.__file__).parent / "data"
    found += [folder / f"{name}.png" for name in names] + [folder / "rocket.jpg", folder / "hubble_deep_field.jpg"]
    return [path for path in found if path.exists()]


def views(pictures: Sequence[Path], *, size: int, count: int, seed: int = 0) -> np.ndarray:
    """`count` pixel arrays, uint8 (count, size, size, 3): each whole picture first, then random windows of them.

    Windows show a half to all of a side, every second one mirrored.

    Raises:
        ImageProblem: a picture cannot be read.
    """
    whole = [load_image(path, size=size) for path in pictures[:count]]
    large = [load_image(path, size=2 * size) for path in pictures]
    rng, found = np.random.default_rng(seed), whole
    while len(found) < count:
        picture = large[len(found) % len(large)]
        side = int(rng.integers(size, 2 * size + 1))
        top, left = rng.integers(0, 2 * size - side + 1, 2)
        window = picture[top : top + side, left : left + side]
        step = np.arange(size) * side // size  # nearest pixels: both sides get the same array anyway
        window = window[step][:, step]
        found.append(window[:, ::-1] if len(found) % 2 else window)
    return np.ascontiguousarray(np.stack(found))


def one_by_one(predict: Predict) -> Callable[[np.ndarray], tuple[np.ndarray, float]]:
    """Ask for a picture at a time, as a server does; the time is the median, what is prepared once left out."""

    def answer(pixels: np.ndarray) -> tuple[np.ndarray, float]:
        predict(pixels[:1])
        found, seconds = [], []
        for i in range(len(pixels)):
            started = time.perf_counter()
            found.append(predict(pixels[i : i + 1]))
            seconds.append(time.perf_counter() - started)
        return np.concatenate(found), 1000 * float(np.median(seconds))

    return answer


def open_keras(model: keras.Model) -> Runtime:
    """The model itself, as Keras runs it."""
    run = tf.function(lambda pixels: model(pixels, training=False))
    return Runtime(f"Keras {keras.__version__}", one_by_one(lambda pixels: run(tf.constant(pixels)).numpy()))


def open_savedmodel(folder: Path) -> Runtime:
    """A SavedModel, by its two signatures."""
    loaded = tf.saved_model.load(str(folder))
    pixels, encoded = loaded.signatures["serving_default"], loaded.signatures["bytes"]

    def from_files(paths: Sequence[Path]) -> np.ndarray:
        answers = [encoded(image=tf.constant([path.read_bytes()]))["probabilities"] for path in paths]
        return np.concatenate([answer.numpy() for answer in answers])

    answer = one_by_one(lambda batch: pixels(pixels=tf.constant(batch))["probabilities"].numpy())
    return Runtime(f"TensorFlow {tf.__version__}", answer, from_files)


def open_tflite(folder: Path, *, threads: int | None = None) -> Runtime:
    """A TFLite file, by LiteRT's interpreter or, without it, the one inside TensorFlow."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        from tensorflow.lite import Interpreter
    interpreter = Interpreter(str(folder / "model.tflite"), num_threads=threads or os.cpu_count())
    run = interpreter.get_signature_runner()
    answer = one_by_one(lambda batch: run(pixels=batch)["probabilities"])
    return Runtime(Interpreter.__module__.partition(".")[0], answer)


def open_onnx(folder: Path, *, threads: int | None = None) -> Runtime:
    """An ONNX file, by onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or os.cpu_count() or 1
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    answer = one_by_one(lambda batch: session.run(["probabilities"], {"pixels": batch})[0])
    return Runtime(f"onnxruntime {onnxruntime.__version__}", answer)


def open_tfjs(folder: Path, *, size: int, node_modules: Path | None = None) -> Runtime:
    """A TensorFlow.js layers model: by nsfwjs in Node where `node_modules` is given, else its files read back."""
    from nsfwlib import tfjs, tfjs_node

    if node_modules is None:
        network = tfjs.read(folder)

        def read_back(pixels: np.ndarray) -> tuple[np.ndarray, float]:
            scaled = pixels.astype(np.float32) / tfjs.DIVISOR
            return network.predict(scaled, batch_size=8, verbose=0), float("nan")

        return Runtime("files read back, no browser", read_back)

    def ask(pictures: Sequence[np.ndarray]) -> tfjs_node.Answers:
        return tfjs_node.ask(folder, pictures, size=size, node_modules=node_modules)

    def answer(pixels: np.ndarray) -> tuple[np.ndarray, float]:
        answers = ask(pixels)
        return answers.probabilities, float(np.median(answers.milliseconds[1:]))

    return Runtime("nsfwjs in Node (wasm)", answer, lambda paths: ask([load_image(p) for p in paths]).probabilities)


def compare(expected: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """Two arrays of probabilities (N, K) → the largest difference, and how often the answer is another class."""
    changed = expected.argmax(axis=1) != found.argmax(axis=1)
    difference = float(np.abs(expected - found).max()) if np.isfinite(found).all() else float("inf")
    return {
        "largest_difference": difference,
        "changed_argmax": int(changed.sum()),
        "changed_share": float(changed.mean()),
    }


def measure(
    model: keras.Model, runtime: Runtime, *, pixels: np.ndarray, files: Sequence[Path], expected: np.ndarray
) -> dict[str, float | str]:
    """One row of the parity table: `runtime` against `expected`, what `model` says of `pixels`.

    `files_difference` compares what the format says of the files, decoded or resized its own way, with what `model`
    says of the same files read by this kit; NaN where a format takes pixels only.
    """
    found, milliseconds = runtime.answer(pixels)
    row = {"ms_per_image": milliseconds, **compare(expected, found), "pictures": len(pixels)}
    files_row = {"files_difference": float("nan"), "files_changed": float("nan"), "files": 0}
    if runtime.from_files is not None and len(files):
        size = classifiers.image_size(model)
        ours = model.predict(np.stack([load_image(path, size=size) for path in files]), batch_size=8, verbose=0)
        theirs = compare(ours, runtime.from_files(files))
        files_row = {
            "files_difference": theirs["largest_difference"],
            "files_changed": theirs["changed_argmax"],
            "files": len(files),
        }
    return {**row, **files_row, "runtime": runtime.name}


@look.styled
def plot_parity(table: pd.DataFrame) -> Figure:
    """Size, time and disagreement of each format, a panel each.

    Args:
        table: as from `export.export`.
    """
    figure, axes = plt.subplots(1, 3, figsize=(12, 1.3 + 0.42 * len(table)), sharey=True)
    _bars(axes[0], table["size_mb"], "{:,.0f}", "Size, MB")
    _bars(axes[1], table["ms_per_image"], "{:,.0f}", "Time, ms an image")
    floor = 1e-8  # where a log scale begins: nothing that differs less matters
    _bars(axes[2], table["largest_difference"].clip(lower=floor), "{:.0e}", "Largest difference of a probability")
    axes[2].set(xscale="log", xlim=(floor, 1))
    limits = table["tolerance"].where(table["tolerated"].eq("largest_difference"))
    axes[2].plot(limits, np.arange(len(table)), "|", color=look.ACCENT, ms=16, mew=2, label="tolerance")
    axes[2].legend(loc="lower right", fontsize=8)
    axes[0].set_yticks(np.arange(len(table)), table.index)
    axes[0].invert_yaxis()
    return figure


def _bars(ax: Axes, values: pd.Series, form: str, title: str) -> None:
    places = np.arange(len(values))
    ax.barh(places, values.fillna(0), color=look.MID, height=0.6)
    for place, value in zip(places, values, strict=True):
        text = "not measured" if np.isnan(value) else form.format(value)
        ax.annotate(text, (0 if np.isnan(value) else value, place), (3, 0), textcoords="offset points", va="center")
    ax.set_title(title)
    ax.margins(x=0.2)
