"""Small classifiers whose answers differ from picture to picture: those of random deep networks hardly do."""

import hashlib

import keras
import numpy as np
import pandas as pd
from PIL import Image

from nsfwlib.model.classifier import FEATURES, _head, with_head

BLOCK = "convolution"


def lively_classifier(class_names, *, size, seed=0):
    """RGB 0–255 (B, size, size, 3) → (B, K) that spreads over the classes; its one block is `BLOCK`, 8 wide."""
    inputs = keras.Input((size, size, 3), name="rgb")
    x = keras.layers.Rescaling(1 / 127.5, -1.0, name="rescaling")(inputs)
    spread = keras.initializers.RandomNormal(stddev=0.6, seed=seed)
    x = keras.layers.Conv2D(8, 5, 3, activation="relu", kernel_initializer=spread, name=BLOCK)(x)
    x = keras.layers.GlobalAveragePooling2D(name=FEATURES)(x)
    classifier = keras.Model(inputs, _head(x, list(class_names), "logistic"), name="classifier")
    kernel = np.random.default_rng(seed).normal(0, 0.8, (8, len(class_names)))
    classifier.get_layer("logits").set_weights([kernel, np.zeros(len(class_names))])
    return classifier


def staged_classifier(class_names, *, size, seed=0, widths=(16, 32, 48, 64)):
    """Four stages of one convolution with BatchNorm each, `conv_1` to `stage_4`; it compiles in a second."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((size, size, 3), name="rgb")
    x = keras.layers.Rescaling(1 / 127.5, -1.0, name="rescaling")(inputs)
    for stage, width in enumerate(widths, start=1):
        x = keras.layers.Conv2D(width, 3, 2, padding="same", use_bias=False, name=f"conv_{stage}")(x)
        x = keras.layers.BatchNormalization(name=f"conv_{stage}_BN")(x)
        x = keras.layers.ReLU(name=f"stage_{stage}")(x)
    return awakened(with_head(keras.Model(inputs, x), class_names))


def awakened(classifier):
    """A random network whose BatchNorm knows pictures: without that nothing of them would reach its last layers."""
    norms = [layer for layer in classifier.layers if isinstance(layer, keras.layers.BatchNormalization)]
    trainable, momentum = [layer.trainable for layer in norms], [layer.momentum for layer in norms]
    for layer in norms:
        layer.trainable, layer.momentum = True, 0.0
    size = classifier.input_shape[1]
    level = np.array([40, 180] * 8)[:, None, None, None]
    noise = np.random.default_rng(0).normal(level, 20, (16, size, size, 3))
    classifier(np.clip(noise, 0, 255).astype(np.float32), training=True)
    for layer, trains, pace in zip(norms, trainable, momentum, strict=True):
        layer.trainable, layer.momentum = trains, pace
    return classifier


def lopsided(classifier):
    """Sure of its first class whatever it sees: any training lowers the loss, so that its weights are kept."""
    logits = classifier.get_layer("logits")
    kernel, bias = logits.get_weights()
    logits.set_weights([kernel, np.where(np.arange(len(bias)) == 0, 10.0, -10.0)])
    return classifier


def bright_and_dark(folder):
    """Two easy classes, bright pictures and dark ones, 12 each, drawn into `folder`; their images table."""
    rng, rows = np.random.default_rng(0), []
    for label, level in (("bright", 180), ("dark", 40)):
        (folder / label).mkdir()
        for i in range(12):
            path = folder / label / f"{i}.png"
            Image.fromarray(np.clip(rng.normal(level, 20, (40, 50, 3)), 0, 255).astype(np.uint8)).save(path)
            split = "train" if i < 8 else "val" if i < 10 else "test"
            rows.append((f"{label}/{i}.png", label, split, hashlib.sha256(path.read_bytes()).hexdigest(), ""))
    return pd.DataFrame(rows, columns=["path", "given_label", "split", "sha256", "problem"])
