"""What does training cost, and what does it reach? Against the recipe of 2019 in plain Keras 3.

    python benchmarks/training.py [--tables features,time,recipes,stages,memory] [--sets demo0,…,digits,clipart]

features  images/s of the feature pass, decoding included, as a share of the fastest bare forward pass of that minute
time      seconds to the same validation accuracy: ours, cold and warm, against a frozen backbone inside `fit`
recipes   heads on frozen features: accuracy and log-loss on clean labels of test, as filed and with a fifth of the
          labels of train and val wrong, on several splits
stages    the same of stage 1 and of what is saved after stage 2, as filed, on each set
memory    peak memory of the feature pass at 1 k, 10 k and 100 k images (small ones, a process each)

With the published backbone. `demo0` … are stand-in pictures of 150 a class, `digits` scikit-learn's as pictures,
`clipart` eight classes of Debian's openclipart-png (`apt-get install openclipart-png`). Prints tables, asserts nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import itertools
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
from sklearn.datasets import load_digits

from nsfwlib import data, demo, evaluate, labels, model, train

import keras  # isort: skip
import tensorflow as tf  # isort: skip

GFLOP = 11.4  # multiplications and additions of one InceptionV3 forward pass


def stand_in(work_dir: Path, per_class: int) -> tuple[pd.DataFrame, Path]:
    """Table and folder of the demo, with true labels as a column."""
    data_dir = work_dir / f"training-{per_class}" / "demo"
    if not data_dir.exists():
        demo.make_demo(data_dir, images_per_class=per_class, seed=0)
    table = data.scan(data_dir, cache_dir=work_dir / "cache", progress=False)
    table["group"] = data.group_duplicates(table, data_dir=data_dir, cache_dir=work_dir / "cache")
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
    classifier = model.build_classifier(names, head="logistic")
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


# ------------------------------------------------------------------------------------------------ recipes
BLOCKS = ["mixed4", "mixed6", "mixed8", "mixed10"]
CLIP_ART = Path("/usr/share/openclipart/png")
CLIP_CLASSES = ("animals", "buildings", "food", "people", "plants", "recreation", "tools", "transportation")


def picture_set(name: str, work_dir: Path, clip_art: Path) -> tuple[pd.DataFrame, Path]:
    """Usable rows of a set with `truth` and `group`, and its folder."""
    folder = work_dir / name / "pictures"
    if name.startswith("demo"):
        demo.make_demo(folder, images_per_class=150, seed=int(name[4:]))
    elif not folder.exists():
        (_draw_digits if name == "digits" else _copy_clip_art)(folder, clip_art)
    table = data.scan(folder, cache_dir=work_dir / "cache", progress=False)
    table["group"] = data.group_duplicates(table, data_dir=folder, cache_dir=work_dir / "cache")
    truth = demo.read_truth(folder)
    table["truth"] = table["given_label"] if truth is None else table["path"].map(truth.set_index("path")["true_label"])
    classes = table["given_label"].unique()
    return table[table["problem"].eq("") & table["truth"].isin(classes)].reset_index(drop=True), folder


def _draw_digits(folder: Path, _: Path) -> None:
    digits = load_digits()
    for i, (picture, label) in enumerate(zip(digits.images[:1000], digits.target[:1000], strict=True)):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray((picture * 15.9).astype(np.uint8)).resize((96, 96)).save(folder / str(label) / f"{i}.png")


def _copy_clip_art(folder: Path, clip_art: Path) -> None:
    for label in CLIP_CLASSES:
        (folder / label).mkdir(parents=True)
        files = np.random.default_rng(0).permutation(sorted((clip_art / label).rglob("*.png")))
        for i, file in enumerate(files[:130]):
            picture = Image.open(file).convert("RGBA")
            picture.thumbnail((400, 400))
            white = Image.new("RGBA", picture.size, "white")
            Image.alpha_composite(white, picture).convert("RGB").save(folder / label / f"{i}.png")


def with_errors(truth: np.ndarray, kind: str, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Codes of which a fifth is wrong: "anywhere", "pairs" (always the next class) or "clumps" of neighbours."""
    labels, count = truth.copy(), truth.max() + 1
    if kind == "clumps":
        while (labels != truth).mean() < 0.2:
            centre = rng.integers(len(truth))
            near = np.argsort(((x - x[centre]) ** 2).sum(axis=1))[:12]
            near = near[truth[near] == truth[centre]]
            labels[near] = (truth[centre] + rng.integers(1, count)) % count
        return labels
    wrong = rng.random(len(truth)) < 0.2
    labels[wrong] += 1 if kind == "pairs" else rng.integers(1, count, wrong.sum())
    return labels % count


def dense_head(x: np.ndarray, y: np.ndarray, splits: pd.Series, seed: int) -> np.ndarray:
    """The head of 2019 on the last block, by Adam with early stopping on val: probabilities (N, K)."""
    keras.utils.set_random_seed(seed)
    layers, targets = keras.layers, np.eye(y.max() + 1)[y]
    plan = [layers.Dropout(0.4), layers.Dense(256, "relu"), layers.Dropout(0.5), layers.Dense(128, "relu")]
    head = keras.Sequential([*plan, layers.Dropout(0.25), layers.Dense(targets.shape[1], "softmax")])
    head.compile("adam", "categorical_crossentropy")
    stop = keras.callbacks.EarlyStopping(patience=8, restore_best_weights=True)
    is_train, is_val = splits.eq("train").to_numpy(), splits.eq("val").to_numpy()
    val = (x[is_val], targets[is_val])
    head.fit(x[is_train], targets[is_train], 128, 60, 0, callbacks=[stop], validation_data=val)
    return head.predict(x, verbose=0)


def logistic_head(
    body: keras.Model, features: dict, y: pd.Series, table: pd.DataFrame, weighted: bool = False
) -> np.ndarray:
    """The head of 02's stage 1 on the blocks of `features`: probabilities (N, K)."""
    weights = None
    if weighted:
        judged = labels.find_label_issues(y.mask(table["split"].eq("test")), features=features, groups=table["group"])
        weights = (judged["p_given"] / (judged["p_given"] + judged["p_suggested"])).fillna(0).to_numpy()
    classifier = model.with_head(body, sorted(y.unique()), blocks=list(features))
    x = np.concatenate(list(features.values()), axis=1)
    train.train_head(classifier, x, y, table["split"], groups=table["group"], weights=weights)
    return model.head_model(classifier).predict(x, verbose=0)


def compare_recipes(sets: list[str], errors: list[str], seeds: int, work_dir: Path, clip_art: Path) -> None:
    rows, body = [], model.published_model()
    for name in sets:
        table, folder = picture_set(name, work_dir, clip_art)
        options = {"cache_dir": work_dir / "cache", "blocks": BLOCKS, "progress": False}
        features = model.block_features(body, table, folder, **options)
        features = {block: values.astype(np.float32) for block, values in features.items()}
        classes = np.array(sorted(table["truth"].unique()))
        truth, filed = (pd.Index(classes).get_indexer(table[column]) for column in ("truth", "given_label"))
        for seed, kind in itertools.product(range(seeds), errors):
            parts = split(table, seed)
            rng, is_test = np.random.default_rng(seed), parts["split"].eq("test").to_numpy()
            y = filed if kind == "as filed" else with_errors(truth, kind, features["mixed6"], rng)
            named, last = pd.Series(classes[y]), {"mixed10": features["mixed10"]}
            recipes = (
                ("dense head, last block", dense_head, (features["mixed10"], y, parts["split"], seed)),
                ("stage 1, last block", logistic_head, (body, last, named, parts)),
                ("stage 1, four blocks", logistic_head, (body, features, named, parts)),
                ("the same, rows weighted", logistic_head, (body, features, named, parts, True)),
                ("the same, true labels", logistic_head, (body, features, parts["truth"], parts)),
            )
            for recipe, fit, arguments in recipes:
                started = time.perf_counter()
                probs = fit(*arguments)[is_test]
                right = probs.argmax(axis=1) == truth[is_test]
                loss = -np.log(np.maximum(probs[np.arange(len(right)), truth[is_test]], 1e-6)).mean()
                rows.append((name.rstrip("012"), kind, recipe, right.mean(), loss, time.perf_counter() - started))
    table = pd.DataFrame(rows, columns=["set", "errors", "recipe", "accuracy", "log-loss", "seconds"])
    runs = table.groupby(["set", "errors", "recipe"], sort=False)
    half = 1.96 * runs[["accuracy", "log-loss"]].sem().add_suffix(" ±")
    print("\nOn clean labels of test: mean, half of the 95 % interval over the runs")
    print(runs.mean().join(half).join(runs.size().rename("runs")).round(3).to_string())


# ------------------------------------------------------------------------------------------------ stages
def compare_stages(sets: list[str], work_dir: Path, clip_art: Path, epochs: int) -> None:
    for name in sets:
        table, folder = picture_set(name, work_dir, clip_art)
        table, names = split(table, 0), sorted(table["truth"].unique())
        options = {"cache_dir": work_dir / "cache", "blocks": BLOCKS, "progress": False}
        classifier = model.build_classifier(names, blocks=BLOCKS, head="logistic")
        features = np.concatenate(list(model.block_features(classifier, table, folder, **options).values()), axis=1)
        history = train.train_head(classifier, features, table["given_label"], table["split"], groups=table["group"])
        test = table[table["split"].eq("test")]

        def note(stage: str, classifier=classifier, test=test, folder=folder, names=names, name=name) -> None:
            probs = train.predict(classifier, test, folder, progress=False)
            codes = pd.Index(names).get_indexer(test["truth"])
            value, low, high, *_ = evaluate.share_interval(probs.argmax(axis=1) == codes, test["group"].to_numpy())
            loss = -np.log(np.maximum(probs[np.arange(len(codes)), codes], 1e-6)).mean()
            print(f"{name:8s} {stage:12s} {value:.3f} ({low:.3f}–{high:.3f}), log-loss {loss:.3f}", flush=True)

        note("stage 1")
        started = time.perf_counter()
        how = {"work_dir": work_dir / "checkpoints", "epochs": epochs, "learning_rate": 3e-3, "verbose": 0}
        tuned = train.fine_tune(classifier, table, table["given_label"], folder, **how)
        note("saved")
        history = pd.concat([history, tuned])
        print(history[["stage", "epoch", "val_loss", "val_accuracy"]].round(3).to_string(index=False))
        print(f"stage 2: {time.perf_counter() - started:.0f} s")


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
    parser.add_argument("--tables", default="features,time,recipes,stages,memory")
    parser.add_argument("--sets", default="demo0,demo1,demo2,digits,clipart", help="of recipes and stages")
    parser.add_argument("--clip-art", type=Path, default=CLIP_ART, help="folder of openclipart-png")
    parser.add_argument("--errors", default="as filed,anywhere,pairs,clumps", help="of recipes: kinds of wrong labels")
    parser.add_argument("--seeds", type=int, default=3, help="of recipes: splits and errors")
    parser.add_argument("--stage-epochs", type=int, default=2, help="of stage 2")
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
    if "features" in chosen or "time" in chosen:
        pictures = stand_in(options.work_dir, options.images_per_class)
    if "features" in chosen:
        compare_rates(*pictures, options.work_dir)
    if "time" in chosen:
        compare_times(*pictures, options.epochs)
    if "recipes" in chosen:
        compare_recipes(
            options.sets.split(","), options.errors.split(","), options.seeds, options.work_dir, options.clip_art
        )
    if "stages" in chosen:
        compare_stages(options.sets.split(","), options.work_dir, options.clip_art, options.stage_epochs)
    if "memory" in chosen:
        compare_memory(options.work_dir)
