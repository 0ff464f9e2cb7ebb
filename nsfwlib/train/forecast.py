"""What will training cost on this machine, and what would more data gain?"""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from nsfwlib._tensorflow import keras
from nsfwlib.files import file_path
from nsfwlib.labels import fit_head, group_codes
from nsfwlib.model import Forward, block_output, decoded_batches, forward_pass, image_size, missing_rows

SAMPLE = 16  # pictures that the cost is measured on
FRACTIONS, REPEATS = (0.1, 0.2, 0.4, 0.7, 1.0), 3  # of the training groups: each drawn so often, the whole once


def training_cost(
    model: keras.Model,
    table: pd.DataFrame,
    data_dir: Path,
    *,
    cache_dir: Path,
    blocks: Sequence[str],
    fine_tune_from: str = "mixed7",
    fine_tune_epochs: int = 2,
) -> pd.DataFrame:
    """What training will cost on this machine, from SAMPLE pictures decoded and sent through the network now.

    One row a step: `step`, `images` (passes included), `seconds_per_image`, `minutes`. The backward pass through a
    layer counts as two forward ones; frozen layers see `val` once, as on a CPU. Compiling (half a minute) is left out.
    """
    usable = table[table["problem"].eq("") & table["split"].ne("")]
    chosen = usable["path"].sample(min(SAMPLE, len(usable)), random_state=0)
    paths = [file_path(data_dir, path) for path in chosen]
    started = time.perf_counter()
    ((_, pixels, _),) = decoded_batches(paths, size=image_size(model), batch_size=SAMPLE)
    decode = (time.perf_counter() - started) / len(paths)
    missing = len(missing_rows(model, table, cache_dir=cache_dir, blocks=blocks))
    whole = _seconds(forward_pass(model, [blocks[-1]]), pixels) if missing or fine_tune_epochs else 0.0
    train, val = (usable["split"].eq(split).sum() for split in ("train", "val"))
    upper = whole * _share_above(model, fine_tune_from)
    steps = [("features of the frozen backbone", missing, max(whole, decode))]
    if fine_tune_epochs:
        steps += [("fine-tuning", fine_tune_epochs * train, decode + whole + 2 * upper)]
        steps += [("validation", val, decode + whole + (fine_tune_epochs + 1) * upper)]
        steps += [("predictions, where it helps", len(usable) - train, max(whole, decode))]
    plan = pd.DataFrame(steps, columns=["step", "images", "seconds_per_image"])
    return plan.assign(minutes=plan["images"] * plan["seconds_per_image"] / 60)


def _share_above(model: keras.Model, block: str) -> float:
    """Share of the multiplications of all convolutions that those behind `block` do."""
    block_output(model, block)  # an unknown one is told with those there are
    kernels = ([np.prod(w.shape) for w in layer.weights if len(w.shape) == 4] for layer in model.layers)
    places = [np.prod(layer.output.shape[1:3]) if len(layer.output.shape) == 4 else 0 for layer in model.layers]
    work = [sum(sizes) * positions for sizes, positions in zip(kernels, places, strict=True)]
    after = [layer.name for layer in model.layers].index(block) + 1
    return float(sum(work[after:]) / sum(work))


def _seconds(forward: Forward, pixels: np.ndarray) -> float:
    """Seconds a picture of the second pass: the first one, of one picture, compiles."""
    forward(pixels[:1])
    started = time.perf_counter()
    forward(pixels)
    return (time.perf_counter() - started) / len(pixels)


def learning_curve(
    features: np.ndarray, labels: pd.Series, splits: pd.Series, *, groups: pd.Series | None = None, seed: int = 0
) -> pd.DataFrame:
    """What would more data gain? Validation accuracy of a logistic head on growing shares of the training images.

    Each fit has the regularisation that suits its own number of images. Arguments are as in `train.train_head`. One row
    a fit: `images` (trained on), `repeat`, `accuracy` and `log_loss` on validation.
    """
    labels, splits = labels.reset_index(drop=True), splits.reset_index(drop=True)
    usable = labels.notna() & ~np.isnan(features[:, 0])
    train, val = (np.flatnonzero(usable & splits.eq(split)) for split in ("train", "val"))
    names = sorted(labels[train].unique())
    val = val[labels[val].isin(names)]
    if not len(val) or len(names) < 2:
        raise ValueError(f"Expected validation images and two classes. Received: {len(val)} images, classes {names}.")
    group = group_codes(groups, len(labels))
    target = pd.Index(names).get_indexer(labels[val])
    rows = []
    for repeat, fraction in ((r, f) for r in range(REPEATS) for f in FRACTIONS if f < 1 or r == 0):
        rng = np.random.default_rng([seed, repeat])
        order = rng.permutation(np.unique(group[train]))
        chosen = train[np.isin(group[train], order[: max(len(names), round(fraction * len(order)))])]
        head = fit_head(features[chosen], labels[chosen], classes=names, groups=group[chosen], seed=seed)
        probs = np.clip(head.predict_proba(features[val]), 1e-6, None)
        loss = -np.log(probs[np.arange(len(val)), target] / probs.sum(axis=1)).mean()
        rows.append((len(chosen), repeat, float((probs.argmax(axis=1) == target).mean()), float(loss)))
    return pd.DataFrame(rows, columns=["images", "repeat", "accuracy", "log_loss"])
