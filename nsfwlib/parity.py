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
from nsfwlib.images import load_image
from nsfwlib.notebook import stderr_aside

with stderr_aside():
    import keras
    import tensorflow as tf

Predict = Callable[[np.ndarray], np.ndarray]
_FLOOR = 1e-8  # where the figure's log scale begins


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
    large = [load_image(path, size=2 * size) for path in pictures[:count]]
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

    def from_file(path: Path) -> np.ndarray:
        try:
            return encoded(image=tf.constant([path.read_bytes()]))["probabilities"].numpy()
        except tf.errors.InvalidArgumentError:  # CMYK, for one
            return np.full((1, encoded.structured_outputs["probabilities"].shape[1]), np.nan)

    def from_files(paths: Sequence[Path]) -> np.ndarray:
        return np.concatenate([from_file(path) for path in paths])

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
    difference = np.abs(expected - found).max(initial=0)
    return {
        "largest_difference": float(difference) if np.isfinite(difference) else float("inf"),
        "changed_argmax": int(changed.sum()),
        "changed_share": float(changed.mean()) if len(changed) else 0.0,
    }


def measure(
    runtime: Runtime, pixels: np.ndarray, expected: np.ndarray, *, files: Sequence[Path], of_files: np.ndarray
) -> dict[str, float | str]:
    """What the parity table says of `runtime`.

    Args:
        runtime: an export, opened.
        pixels: uint8 (N, S, S, 3).
        expected: (N, K), what Keras says of them.
        files: JPEG and PNG files, asked where the format decodes or resizes by itself; those it refuses do not count.
        of_files: (F, K), what Keras says of them, read by this kit.
    """
    found, milliseconds = runtime.answer(pixels)
    row = {"ms_per_image": milliseconds, **compare(expected, found), "pictures": len(pixels), "runtime": runtime.name}
    if runtime.from_files is None or not files:
        return row
    theirs = runtime.from_files(files)
    read = np.isfinite(theirs).all(axis=1)
    apart = compare(of_files[read], theirs[read])
    return row | {
        "files_difference": apart["largest_difference"],
        "files_changed": apart["changed_argmax"],
        "files": int(read.sum()),
    }


@look.styled
def plot_parity(table: pd.DataFrame) -> Figure:
    """Size, time and disagreement of each format, a panel each.

    Args:
        table: as from `export.export`.
    """
    figure, axes = plt.subplots(1, 3, figsize=(12, 1.5 + 0.42 * len(table)), sharey=True)
    size, time_taken = table["size_mb"], table["ms_per_image"]
    _bars(axes[0], size, size.map("{:,.0f}".format), "Size, MB")
    _bars(
        axes[1],
        time_taken,
        time_taken.map("{:,.0f}".format).where(time_taken.notna(), "not measured"),
        "Time, ms an image",
    )
    differences, changed = table["largest_difference"], table["changed_argmax"]
    texts = [f"{d:.0e}, {c} changed" if d else "0" for d, c in zip(differences, changed, strict=True)]
    _bars(axes[2], differences.clip(lower=_FLOOR), texts, "Largest difference of a probability")
    axes[2].set(
        xscale="log",
        xlim=(_FLOOR, 1),
        xlabel=f"orange: tolerance; changed: another answer, of {table['pictures'].iloc[0]}",
    )
    limits = table["tolerance"].where(table["tolerated"].eq("largest_difference"))
    axes[2].plot(limits, np.arange(len(table)), "|", color=look.ACCENT, ms=16, mew=2)
    axes[0].set_yticks(np.arange(len(table)), table.index)
    axes[0].invert_yaxis()
    return figure


def _bars(ax: Axes, values: pd.Series, texts: Sequence[str], title: str) -> None:
    places = np.arange(len(values))
    ax.barh(places, values.fillna(0), color=look.LIGHT, height=0.6)
    for place, text in zip(places, texts, strict=True):
        ax.annotate(
            text, (0, place), (4, 0), xycoords=("axes fraction", "data"), textcoords="offset points", va="center"
        )
    ax.set_title(title)
