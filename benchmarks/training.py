"""What does training cost, and what does it reach? Against the recipe of 2019 in plain Keras 3.

    python benchmarks/training.py [--tables features,time,seeds,memory] [--images-per-class 60] [--work-dir build/bench]

features  images/s of the feature pass, decoding included, as a share of the fastest bare forward pass of that minute
time      seconds to the same validation accuracy: ours, cold and warm, against a frozen backbone inside `fit`
seeds     validation and test accuracy of stage 1, stage 2 and the published head: mean and spread over five seeds
memory    peak memory of the feature pass at 1 k, 10 k and 100 k images (small ones, a process each)

On the stand-in pictures with the published backbone. Prints tables, asserts nothing. All of it takes about half an hour
on two cores.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pandas as pd
from PIL import Image

from nsfwlib import data, demo, model, train

import keras  # isort: skip
import tensorflow as tf  # isort: skip

GFLOP = 11.4  # multiplications and additions of one InceptionV3 forward pass
SEEDS = range(5)


def stand_in(work_dir: Path, per_class: int) -> tuple[pd.DataFrame, Path]:
    """Table and folder of the demo, with true labels as a column."""
    data_dir = work_dir / f"training-{per_class}" / "demo"
    if not data_dir.exists():
        demo.make_demo(data_dir, images_per_class=per_class, seed=0)
    table = data.scan(data_dir, cache_dir=work_dir / "cache", progress=False)
    table["group"] = data.group_duplicates(table)
    truth = pd.read_csv(data_dir.with_name("demo_truth.csv")).set_index("path")["true_label"]
    return table[table["problem"].eq("")].assign(truth=table["path"].map(truth)).reset_index(drop=True), data_dir


def split(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    return data.assign_splits(table, fractions=(0.7, 0.15, 0.15), seed=seed)


# ------------------------------------------------------------------------------------------------ features
def compare_rates(table: pd.DataFrame, data_dir: Path, work_dir: Path) -> None:
    classifier, batch = model.published_model(), 32
    blocks, last = ["mixed4", "mixed10"], "mixed10"
    pixels = np.random.default_rng(0).integers(0, 256, (batch, 299, 299, 3)).astype(np.uint8)
    backbone = model.feature_model(classifier, [last])
    plain = tf.function(lambda x: backbone(x, training=False))
    bare = {
        "TensorFlow": lambda: plain(tf.constant(pixels, tf.float32)).numpy(),
    }
    try:
        run = model.forward_pass(classifier, [last], runtime="openvino", cache_dir=work_dir)
        bare["ONNX Runtime"] = lambda: run(pixels)
    except ImportError:
        pass
    rows = table.head(160)

    def whole() -> None:
        with tempfile.TemporaryDirectory() as cache:
            model.block_features(classifier, rows, data_dir, cache_dir=Path(cache), blocks=blocks, progress=False)

    for function in bare.values():
        function()
    best = dict.fromkeys([*bare, "ours, from files"], 0.0)
    matrix = np.random.default_rng(0).random((2048, 2048), np.float32)
    products = 0.0
    for _ in range(3):  # in turn, so that all see the same minutes
        for name, function in bare.items():
            started = time.perf_counter()
            for _ in range(3):
                function()
            best[name] = max(best[name], 3 * batch / (time.perf_counter() - started))
        started = time.perf_counter()
        matrix @ matrix
        products = max(products, 2 * 2048**3 / (time.perf_counter() - started) / 1e9)
        started = time.perf_counter()
        whole()
        best["ours, from files"] = max(best["ours, from files"], len(rows) / (time.perf_counter() - started))
    fastest = max(best[name] for name in bare)
    print(f"\nFeatures: batches of {batch}; ours decodes, hashes and stores {len(rows)} pictures, compiling included")
    result = pd.DataFrame({"images/s": best})
    result["share of the fastest bare"] = result["images/s"] / fastest
    result["GFLOP/s"] = result["images/s"] * GFLOP
    print(result.round(2).to_string())
    print(f"float32 matrix product, numpy: {products:.0f} GFLOP/s")


# ------------------------------------------------------------------------------------------------ time to accuracy
def compare_times(table: pd.DataFrame, data_dir: Path, most: int) -> None:
    table = split(table, 0)
    names = sorted(table["given_label"].unique())
    with tempfile.TemporaryDirectory() as cache:
        cold, accuracy = _ours(table, data_dir, Path(cache), names)
        warm, _ = _ours(table, data_dir, Path(cache), names)
    epochs, seconds, reached = _recipe_of_2019(table, data_dir, names, accuracy, most)
    print(f"\nTime to validation accuracy {accuracy:.3f} on {table['split'].eq('train').sum()} training pictures")
    note = "" if reached >= accuracy else f" (not reached: {reached:.3f} after {epochs} epochs)"
    result = pd.DataFrame(
        {"seconds": [seconds, cold, warm], "times faster": [1, seconds / cold, seconds / warm]},
        index=[f"recipe of 2019, {epochs} epochs{note}", "ours, cold cache", "ours, warm cache"],
    )
    result["share of the epochs"] = result["times faster"] / epochs
    print(result.round(2).to_string())


def _ours(table: pd.DataFrame, data_dir: Path, cache_dir: Path, names: list[str]) -> tuple[float, float]:
    classifier = model.build_classifier(names)
    rows = table[table["split"].isin(["train", "val"])].reset_index(drop=True)
    started = time.perf_counter()
    found = model.bottleneck_features(classifier, rows, data_dir, cache_dir=cache_dir, progress=False)
    history = train.train_head(classifier, found, rows["given_label"], rows["split"])
    return time.perf_counter() - started, history["val_accuracy"].iloc[history["val_loss"].argmin()]


def _recipe_of_2019(
    table: pd.DataFrame, data_dir: Path, names: list[str], target: float, most: int
) -> tuple[int, float, float]:
    """Frozen backbone and head in one model, augmented pictures through all of it every epoch, until `target`."""
    layers = keras.layers
    change = keras.Sequential(
        [
            layers.RandomRotation(30 / 360, fill_mode="nearest"),
            layers.RandomTranslation(0.2, 0.2, fill_mode="nearest"),
            layers.RandomShear(0.2, 0.2, fill_mode="nearest"),
            layers.RandomZoom(0.2, fill_mode="nearest"),
            layers.RandomFlip("horizontal"),
        ]
    )

    def pictures(part: str) -> tf.data.Dataset:
        rows = table[table["split"].eq(part)]
        paths = [str(data_dir / path) for path in rows["path"]]
        targets = np.eye(len(names), dtype=np.float32)[pd.Index(names).get_indexer(rows["given_label"])]

        def load(path: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            pixels = tf.io.decode_image(tf.io.read_file(path), channels=3, expand_animations=False)
            return tf.image.resize(pixels, (299, 299)), y

        order = tf.data.Dataset.from_tensor_slices((paths, targets))
        order = order.shuffle(len(paths), seed=0) if part == "train" else order
        readable = order.map(load, num_parallel_calls=tf.data.AUTOTUNE).ignore_errors()
        batches = readable.batch(32)
        return (batches.map(lambda x, y: (change(x, training=True), y)) if part == "train" else batches).prefetch(2)

    classifier = model.build_classifier(names)
    train.compile_classifier(classifier, keras.optimizers.Adam(1e-3))
    is_train, val = pictures("train"), pictures("val")
    started, best, epochs = time.perf_counter(), 0.0, 0
    while best < target and epochs < most:
        history = classifier.fit(is_train, validation_data=val, epochs=1, verbose=0).history
        best, epochs = max(best, history["val_accuracy"][0]), epochs + 1
    return epochs, time.perf_counter() - started, best


# ------------------------------------------------------------------------------------------------ seeds
def compare_stages(table: pd.DataFrame, data_dir: Path, work_dir: Path) -> None:
    names = sorted(table["given_label"].unique())
    rows = []
    for seed in SEEDS:
        parts = split(table, seed)
        held_out = {part: parts["split"].eq(part).to_numpy() for part in ("val", "test")}
        features_dir = work_dir / "cache"

        def note(step: str, probs: np.ndarray, loss: float = np.nan, parts=parts, held_out=held_out, seed=seed) -> None:
            right = np.array(names)[probs.argmax(axis=1)] == parts["truth"].to_numpy()
            rows.append((step, seed, right[held_out["val"]].mean(), right[held_out["test"]].mean(), loss))

        classifier = model.build_classifier(names, seed=seed)
        found = model.bottleneck_features(classifier, parts, data_dir, cache_dir=features_dir, progress=False)
        old = model.head_model(model.published_model())
        note("published head", old.predict(found.astype(np.float32), verbose=0))
        history = train.train_head(classifier, found, parts["given_label"], parts["split"], seed=seed)
        head = model.head_model(classifier)
        note("stage 1", head.predict(found.astype(np.float32), verbose=0), history["val_loss"].min())
        options = {"work_dir": work_dir / "checkpoints", "stored_views": 2, "learning_rate": 3e-3, "verbose": 0}
        before = history["val_loss"].min()
        history = train.fine_tune(classifier, parts, parts["given_label"], data_dir, epochs=6, seed=seed, **options)
        probs = train.predict(classifier, parts, data_dir, progress=False)
        note("stage 2, best epoch kept", probs, min(before, history["val_loss"].min()))
    result = pd.DataFrame(rows, columns=["step", "seed", "val", "test", "val loss (given labels)"])
    print(f"\nAccuracy against the truth, {len(SEEDS)} seeds of split, order and weights; {len(table)} pictures")
    print(result.drop(columns="seed").groupby("step", sort=False).agg(["mean", "std"]).round(3).to_string())
    wide = result.pivot(index="seed", columns="step", values="test")
    gain = wide["stage 2, best epoch kept"] - wide["stage 1"]
    print(f"stage 2 - stage 1 on test, seed by seed: {', '.join(f'{value:+.3f}' for value in gain)}")


# ------------------------------------------------------------------------------------------------ memory
def compare_memory(work_dir: Path) -> None:
    print("\nPeak memory of the feature pass (MobileNetV2 of 32 px, pictures of 64 px, each of its own content)")
    print("   images   peak MB   seconds", flush=True)
    for count in (1_000, 10_000, 100_000):
        command = [sys.executable, __file__, "--one", str(count), "--work-dir", str(work_dir)]
        subprocess.run(command, check=True)


def measure_memory(count: int, work_dir: Path) -> None:
    folder = work_dir / "memory"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "data").mkdir(parents=True)
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)).save(buffer, "JPEG")
    hashes = [f"{i:064x}" for i in range(count)]
    for i in range(count):  # bytes after the end of a JPEG change its hash, not its picture
        content = buffer.getvalue() + str(i).encode()
        (folder / "data" / f"{i}.jpg").write_bytes(content)
        hashes[i] = hashlib.sha256(content).hexdigest()
    table = pd.DataFrame({"path": [f"{i}.jpg" for i in range(count)], "sha256": hashes, "problem": ""})
    classifier = model.build_classifier(["a", "b"], weights=None, backbone="MobileNetV2", image_size=32)
    started = time.perf_counter()
    options = {"cache_dir": folder, "blocks": "out_relu", "batch_size": 256, "progress": False}
    model.bottleneck_features(classifier, table, folder / "data", **options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{count:>9,} {peak:>9.0f} {time.perf_counter() - started:>9.1f}", flush=True)
    shutil.rmtree(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", default="features,time,seeds,memory")
    parser.add_argument("--images-per-class", type=int, default=60)
    parser.add_argument("--work-dir", type=Path, default=Path("build/bench"))
    parser.add_argument("--epochs", type=int, default=40, help="at most, of the recipe of 2019")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.work_dir.mkdir(parents=True, exist_ok=True)
    chosen = options.tables.split(",")
    if options.one:
        measure_memory(options.one, options.work_dir)
        sys.exit()
    pictures = stand_in(options.work_dir, options.images_per_class)
    if "features" in chosen:
        compare_rates(*pictures, options.work_dir)
    if "time" in chosen:
        compare_times(*pictures, options.epochs)
    if "seeds" in chosen:
        compare_stages(*pictures, options.work_dir)
    if "memory" in chosen:
        compare_memory(options.work_dir)
