"""Does an export give the same answers? Each format run by its own runtime on the same pictures as the Keras model."""

import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock
from platformdirs import user_cache_path

from nsfwlib._tensorflow import keras, tf
from nsfwlib.data import load_image
from nsfwlib.export.tfjs import DIVISOR, read_tfjs
from nsfwlib.files import writable_folder
from nsfwlib.model import PACKAGE, VERSION, require_openvino, run_tool

_TFJS = "4.22.0"
PACKAGES = (f"{PACKAGE}@{VERSION}", f"@tensorflow/tfjs@{_TFJS}", f"@tensorflow/tfjs-backend-wasm@{_TFJS}")
_SCRIPT = Path(__file__).with_name("node.js")


class Runtime(NamedTuple):
    """An export, opened."""

    name: str
    answer: Callable[[np.ndarray], tuple[np.ndarray, float]]  # uint8 (N, S, S, 3) → (N, K), milliseconds a picture
    from_files: Callable[[Sequence[Path]], np.ndarray] | None = None  # paths → (N, K), where it decodes or resizes


def picture_windows(pictures: Sequence[Path], *, size: int, count: int, seed: int = 0) -> np.ndarray:
    """`count` pixel arrays, uint8 (count, size, size, 3): each whole picture first, then random windows of them.

    Windows show a half to all of a side, every second one mirrored. A picture that cannot be read is an ImageProblem.
    """
    rng, found = np.random.default_rng(seed), [load_image(path, size=size) for path in pictures[:count]]
    large = [load_image(path, size=2 * size) for path in pictures[:count]]
    for i in range(len(found), count):
        side = int(rng.integers(size, 2 * size + 1))
        top, left = rng.integers(0, 2 * size - side + 1, 2)
        step = np.arange(size) * side // size  # nearest pixels: both sides get the same array anyway
        window = large[i % len(large)][top + step][:, left + step]
        found.append(window[:, ::-1] if i % 2 else window)
    return np.stack(found)


def one_by_one(predict: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], tuple[np.ndarray, float]]:
    """Ask for a picture at a time, as a server does; the time is the median, what is prepared once left out."""

    def answer(pixels: np.ndarray) -> tuple[np.ndarray, float]:
        predict(pixels[:1])
        found, times = [], [time.perf_counter()]
        for i in range(len(pixels)):
            found.append(predict(pixels[i : i + 1]))
            times.append(time.perf_counter())
        return np.concatenate(found), 1000 * float(np.median(np.diff(times)))

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
        found = np.full((len(paths), encoded.structured_outputs["probabilities"].shape[1]), np.nan, np.float32)
        for i, path in enumerate(paths):
            with suppress(tf.errors.InvalidArgumentError):  # CMYK, for one
                found[i] = encoded(image=tf.constant([path.read_bytes()]))["probabilities"][0]
        return found

    answer = one_by_one(lambda batch: pixels(pixels=tf.constant(batch))["probabilities"].numpy())
    return Runtime(f"TensorFlow {tf.__version__}", answer, from_files)


def open_tflite(folder: Path) -> Runtime:
    """A TFLite file, by LiteRT's interpreter or, without it, the one inside TensorFlow."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        from tensorflow.lite import Interpreter
    run = Interpreter(str(folder / "model.tflite"), num_threads=os.cpu_count()).get_signature_runner()
    answer = one_by_one(lambda batch: run(pixels=batch)["probabilities"])
    return Runtime(Interpreter.__module__.partition(".")[0], answer)


def open_openvino(folder: Path) -> Runtime:
    """A model of OpenVINO's, by OpenVINO on the CPU."""
    openvino = require_openvino()
    run = openvino.Core().compile_model(folder / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return Runtime(f"OpenVINO {version('openvino')}", one_by_one(lambda batch: run(batch)["probabilities"]))


def open_onnx(folder: Path) -> Runtime:
    """An ONNX file, by onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count() or 1
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    answer = one_by_one(lambda batch: session.run(["probabilities"], {"pixels": batch})[0])
    return Runtime(f"onnxruntime {onnxruntime.__version__}", answer)


def open_tfjs(folder: Path, *, size: int, node_modules: Path | None = None) -> Runtime:
    """A TensorFlow.js layers model: by nsfwjs in Node where `node_modules` is given, else its files read back."""
    if node_modules is None:
        predict = partial(read_tfjs(folder).predict, batch_size=8, verbose=0)
        return Runtime("files read back, no browser", lambda x: (predict(x.astype(np.float32) / DIVISOR), np.nan))
    ask = partial(ask_nsfwjs, folder, size=size, node_modules=node_modules)
    return Runtime("nsfwjs in Node (wasm)", ask, lambda paths: ask([load_image(path) for path in paths])[0])


def compare_answers(expected: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """Two arrays of probabilities (N, K) → the largest difference, and how often the answer is another class."""
    changed = expected.argmax(axis=1) != found.argmax(axis=1)
    difference = np.abs(expected - found).max(initial=0)
    return {
        "largest_difference": float(difference) if np.isfinite(difference) else float("inf"),
        "changed_argmax": int(changed.sum()),
        "changed_share": float(changed.mean()) if len(changed) else 0.0,
    }


def install_nsfwjs(*, cache_dir: Path | None = None) -> Path:
    """`node_modules` with nsfwjs and TensorFlow.js in `cache_dir` (default: the user's cache), fetched once by npm.

    About 350 MB; no install script runs. A RuntimeError where Node or npm is missing, or npm fails.
    """
    folder = (user_cache_path("nsfwlib") if cache_dir is None else Path(cache_dir)) / "nsfwjs-node"
    modules, done = folder / "node_modules", folder / "installed.json"
    writable_folder(folder, "cache_dir")
    with FileLock(f"{folder}.lock"):
        if done.exists() and json.loads(done.read_text()) == list(PACKAGES):
            return modules
        command = ["install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder), *PACKAGES]
        (folder / "package.json").write_text('{"private": true}')
        problem = f"npm could not install {', '.join(PACKAGES)}. Check the network and the registry"
        run_tool("npm", command, problem, cwd=folder)
        done.write_text(json.dumps(PACKAGES))
    return modules


def ask_nsfwjs(
    model: Path | str, pictures: Sequence[np.ndarray], *, size: int, node_modules: Path
) -> tuple[np.ndarray, float]:
    """What nsfwjs answers, float32 (N, K), and milliseconds a picture, their median without the first.

    `model`, loaded by `nsfwjs.load(url, {size})`, is a folder with `model.json`, or "InceptionV3": the one that nsfwjs
    brings along. `pictures` are uint8 (H, W, 3); nsfwjs resizes those that are not `size` × `size`, aligning corners. A
    RuntimeError where Node is missing, or nsfwjs does not load the model.
    """
    with tempfile.TemporaryDirectory() as folder:
        manifest = []
        for i, picture in enumerate(pictures):
            (Path(folder) / f"{i}.rgb").write_bytes(np.ascontiguousarray(picture, np.uint8).tobytes())
            manifest.append({"file": f"{i}.rgb", "height": picture.shape[0], "width": picture.shape[1]})
        (Path(folder) / "manifest.json").write_text(json.dumps(manifest))
        model = model if model == "InceptionV3" else str(Path(model).absolute())
        command, problem = [str(_SCRIPT), model, str(size), "manifest.json"], f"nsfwjs did not answer with {model}"
        modules = str(Path(node_modules).absolute())
        said = run_tool("node", command, problem, cwd=folder, NODE_PATH=modules)
    answers = json.loads(said[said.rindex('{"backend"') :])
    return np.array(answers["probabilities"], np.float32), float(np.median(answers["milliseconds"][1:] or np.nan))
