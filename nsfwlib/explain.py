"""Where did the model look? Grad-CAM heat maps, to be laid over blurred pictures."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf


def heat_maps(model: keras.Model, pixels: np.ndarray, classes: Sequence[int], *, batch_size: int = 16) -> np.ndarray:
    """How much each region speaks for a class: float32 (N, h, w), 0 for not at all, 1 the most of its picture.

    Gradient of the class's log-probability by the last feature map, averaged over positions, weighs its channels
    (Selvaraju et al., Grad-CAM, 2017). It shows where evidence lies, not why it counts, and only as finely as h × w.

    Args:
        model: a classifier as from `model.build_classifier`, its layers in one graph.
        pixels: RGB 0–255 (N, S, S, 3), as the model takes them.
        classes: (N,) position of the class to explain, such as the wrongly predicted one.
        batch_size: pictures at a time.

    Raises:
        ValueError: the model has no feature map, or pictures and classes differ in number.
    """
    if len(pixels) != len(classes):
        raise ValueError(f"Expected one class a picture: {len(pixels)}. Received: {len(classes)} classes.")
    last = _last_feature_map(model)
    body, tail = keras.Model(model.inputs, last), keras.Model(last, model.outputs[0])
    maps = []
    for start in range(0, len(pixels), batch_size):
        part = slice(start, start + batch_size)
        features = body(tf.constant(pixels[part], tf.float32), training=False)
        with tf.GradientTape() as tape:
            tape.watch(features)
            probs = tail(features, training=False)
            chosen = tf.gather(probs, tf.constant(classes[part], tf.int32), axis=1, batch_dims=1)
            evidence = tf.math.log(chosen + 1e-7)
        weight = tf.reduce_mean(tape.gradient(evidence, features), axis=(1, 2), keepdims=True)
        maps.append(tf.nn.relu(tf.reduce_sum(weight * features, axis=-1)).numpy())
    heat = np.concatenate(maps) if maps else np.zeros((0, *last.shape[1:3]), np.float32)
    return heat / np.maximum(heat.max(axis=(1, 2), keepdims=True, initial=0), 1e-12)


def _last_feature_map(model: keras.Model) -> keras.KerasTensor:
    """Output of the last layer that still knows where things are."""
    for layer in reversed(model.layers):
        shape = getattr(layer.output, "shape", ())
        if len(shape) == 4 and min(shape[1] or 0, shape[2] or 0) > 1:
            return layer.output
    raise ValueError(f"Expected a model with a feature map (B, h, w, C). Received: {model.name!r}, which has none.")
