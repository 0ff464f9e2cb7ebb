"""How does a forward pass run fastest, with the same answers? Converted on a CPU, in mixed precision on a GPU."""

import hashlib
import json
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from nsfwlib._tensorflow import keras, tf
from nsfwlib.model.classifier import block_output, by_kind, feature_model
from nsfwlib.model.runtime import RUNTIMES, keep_converted, kept_path, open_converted, openvino_usable
from nsfwlib.model.stream import Forward

ANSWER = ("probabilities",)  # the name of a classifier's output
TOLERANCE = 1e-4  # of a probability, or of a share of the largest feature


def forward_pass(
    model: keras.Model,
    outputs: Sequence[str] | None = None,
    *,
    runtime: str = "auto",
    bfloat16: bool = False,
    cache_dir: Path | None = None,
    threads: int | None = None,
) -> Forward:
    """A function from RGB 0–255, uint8 or float32 (B, S, S, 3), to a list of float32 arrays, one an output.

    The weights are those of this moment: after more training, ask for a new one. A ValueError where there is no such
    runtime or block, an ImportError where OpenVINO is asked for and not installed.

    Args:
        outputs: names of blocks, pooled to (B, D_block); by default the probabilities (B, K) alone.
        runtime: "tensorflow", "openvino" (the extra of that name), or "auto": on a CPU OpenVINO where `cache_dir`
            has the converted model already, else TensorFlow, which is as fast in float32.
        bfloat16: compute in it; OpenVINO's alone.
        cache_dir: where the converted model is kept, by identity of the weights; by default the file is temporary.
        threads: of OpenVINO; as many as there are cores by default.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime must be one of {', '.join(RUNTIMES)}. Received: {runtime!r}.")
    there = cache_dir is not None and openvino_usable() and _kept(model, outputs, cache_dir).exists()
    if runtime == "openvino" or bfloat16 or (runtime == "auto" and there):
        with tempfile.TemporaryDirectory() as scratch:
            path = converted(model, outputs, cache_dir=cache_dir or Path(scratch))
            precision = "bfloat16" if bfloat16 else "float32"
            return open_converted(path, outputs or ANSWER, precision=precision, threads=threads)
    part = feature_model(model, outputs) if outputs else model
    return compiled(in_half_precision(part) if tf.config.list_physical_devices("GPU") else part)


def compiled(part: keras.Model) -> Forward:
    """The model as one graph: RGB 0–255, uint8 or float32 (B, S, S, 3) → a list of float32 arrays, one an output."""

    def graph(pixels: tf.Tensor) -> list[tf.Tensor]:
        outputs = part(tf.cast(pixels, tf.float32), training=False)
        return [tf.cast(output, tf.float32) for output in tf.nest.flatten(outputs)]

    shape = (None, *part.input_shape[1:])
    kinds = (tf.uint8, tf.float32)
    by_dtype = {kind: tf.function(graph, input_signature=[tf.TensorSpec(shape, kind)]) for kind in kinds}
    return lambda pixels: [output.numpy() for output in by_dtype[tf.as_dtype(pixels.dtype)](tf.constant(pixels))]


def in_half_precision(model: keras.Model, policy: str = "mixed_float16") -> keras.Model:
    """A copy that computes in float16 (or "mixed_bfloat16") and keeps float32 weights.

    Rescaling, temperature and softmax stay in float32. Measured on an H100 with the published InceptionV3: float16
    features differ by 0.4 % in norm, at 8 times the speed of exact float32 and 1.7 times that of TF32; bfloat16 by 4 %,
    good enough to train with and not for features.
    """
    full = ("rescaling", "temperature", "probabilities", model.layers[-1].name)

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        twin = layer.__class__.from_config(layer.get_config())
        if layer.name not in full and not isinstance(layer, keras.layers.InputLayer):
            twin.dtype_policy = keras.dtype_policies.DTypePolicy(policy)
        return twin

    half = keras.models.clone_model(model, clone_function=copy)
    half.set_weights(model.get_weights())
    return half


def _kept(model: keras.Model, outputs: Sequence[str] | None, cache_dir: Path) -> Path:
    return kept_path(cache_dir, [model_identity(model, name) for name in outputs or (None,)], outputs or ANSWER)


def converted(model: keras.Model, outputs: Sequence[str] | None = None, *, cache_dir: Path) -> Path:
    """Where in `cache_dir` OpenVINO reads `model`, converted if need be; a ValueError where its answers then differ."""
    part, names = (feature_model(model, outputs), outputs) if outputs else (model, ANSWER)
    path, check = _kept(model, outputs, cache_dir), partial(_check_converted, part, names)
    keep_converted(path, lambda ov: ov.convert_model(_graph(part, names).get_concrete_function()), check)
    return path


def _graph(part: keras.Model, names: Sequence[str]) -> tf.types.experimental.PolymorphicFunction:
    """ "pixels", float32 RGB 0–255 (B, S, S, 3) → the outputs by name."""

    @tf.function(input_signature=[tf.TensorSpec((None, *part.input_shape[1:]), tf.float32, name="pixels")])
    def graph(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        return dict(zip(names, tf.nest.flatten(part(pixels, training=False)), strict=True))

    return graph


def _check_converted(part: keras.Model, names: Sequence[str], path: Path) -> None:
    """Compare the file with the model it was made from, on a few patchworks of colours."""
    size = part.input_shape[1]
    cells = np.arange(size) * 6 // size
    pixels = np.random.default_rng(0).integers(0, 256, (3, 6, 6, 3))[:, cells][:, :, cells].astype(np.float32)
    with tf.device("CPU"):  # a GPU computes in TensorFloat-32
        expected = tf.nest.flatten(part(pixels, training=False))
    for name, mine, theirs in zip(names, expected, open_converted(path, names)(pixels), strict=True):
        largest = 1.0 if names == ANSWER else float(np.abs(mine.numpy()).max())
        difference = np.abs(mine.numpy() - theirs).max() / (largest or 1.0)
        if not difference < TOLERANCE:
            raise ValueError(
                f"Converted to OpenVINO, the model {part.name!r} must give the same {name}. Received: a difference of "
                f"{difference:.1e}, at most {TOLERANCE:.0e}. Use runtime='tensorflow'."
            )


def model_identity(model: keras.Model, output: str | None = None) -> str:
    """16 hex digits for everything that shapes an output: rescaling, picture size, the weights up to it.

    `output` is the name of a block, the probabilities by default (then with temperature and class names).
    """
    part = model if output is None else keras.Model(model.input, block_output(model, output))
    constants = [layer for layer in part.layers if layer.name in ("rescaling", "temperature")]
    numbers = [float(value) for layer in constants for value in (layer.scale, layer.offset)]
    digest = hashlib.sha256(json.dumps([list(model.input_shape[1:]), *numbers, "pillow-bilinear"]).encode())
    for kind, layers in sorted(by_kind(part.layers).items()):
        digest.update(kind.encode())
        for array in (array for layer in layers for array in layer.get_weights()):
            digest.update(np.ascontiguousarray(array))
    if output is None:
        digest.update(part.layers[-1].name.encode())
    return digest.hexdigest()[:16]
