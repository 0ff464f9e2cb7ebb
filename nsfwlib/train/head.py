"""How is the head fitted, and how much does each block count? On cached features, by the heads that judge labels."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import logsumexp
from tqdm.auto import tqdm

from nsfwlib._tensorflow import keras
from nsfwlib.data import MAX_PIXELS, check_class_names
from nsfwlib.labels import fit_head, group_codes
from nsfwlib.model import (
    Files,
    block_output,
    class_names as names_of,
    forward_pass,
    head_answers,
    head_blocks,
    image_size,
    missing_rows,
    set_logistic_head,
    stream_answers,
)

KINDS = ("logistic", "clouds")
SAMPLE = 20_000  # rows that mean and spread of the features are taken from
BATCH = 32  # pictures that the network answers at once


def train_head(
    model: keras.Model,
    features: np.ndarray,
    labels: pd.Series,
    splits: pd.Series,
    *,
    groups: pd.Series | None = None,
    weights: np.ndarray | None = None,
    class_weight: str | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Stage 1: fit the "logistic" head of `model` on pooled features, in place: the one solution there is.

    Each block gets two heads (`labels.fit_head`), logistic and clouds. The model answers the sum of their log-odds,
    each times the share that is best out of fold by group. Without clouds .587 of clip art are right for .609, .982 of
    digits for .990, near-duplicates grouped by hash alone.

    Args:
        model: a classifier with head="logistic".
        features: (N, ΣD) pooled outputs of `model.head_blocks` side by side; rows with NaN are left out.
        labels: N class names; missing ones are left out.
        splits: N of "train", "val", "test"; `val` is only measured, `test` is not looked at.
        groups: N near-duplicate groups; every row for itself by default.
        weights: N numbers from 0: how much each row counts, on `val` too, such as the chance that its label is right.
        class_weight: "balanced" weighs classes by the inverse of their number, None does not.
        seed: of the folds.

    Returns:
        One row: stage, epoch, loss, accuracy, val_loss, val_accuracy, learning_rate (none). Its `attrs["blocks"]` has
        a record a head: `block`, `head`, `log_loss` out of fold with its 95 % interval `low` … `high`, `share`.

    Raises:
        ValueError: a class without a training image, labels of unknown classes, no validation images, another head.
    """
    lengths = len(features), len(labels), len(splits)
    if len({*lengths}) > 1:
        raise ValueError(f"Expected features, a label and a split for each picture. Received: {lengths} of these.")
    names, usable = names_of(model), labels.notna().to_numpy() & ~np.isnan(features[:, 0])
    rows = {split: np.flatnonzero(usable & splits.eq(split).to_numpy()) for split in ("train", "val")}
    targets, train = one_hot(labels, rows, names), rows["train"]
    weights = np.ones(len(labels)) if weights is None else np.asarray(weights)
    counts = row_weights(targets["train"], weights[train], class_weight)
    group = group_codes(None if groups is None else groups.iloc[train], len(train))
    blocks = {name: block_output(model, name).shape[-1] for name in head_blocks(model)}
    parts = np.split(features, np.cumsum(list(blocks.values()))[:-1], axis=1)
    options = {"classes": names, "groups": group, "weights": counts, "seed": seed}
    pairs = itertools.product(parts, KINDS)
    heads = [fit_head(part[train], labels.iloc[train], clouds=kind == "clouds", **options) for part, kind in pairs]
    odds = [np.log(head.out_of_fold) for head in heads]
    share = _shares(odds, targets["train"], counts)
    kernels = [head.kernel * part for head, part in zip(heads, share, strict=True)]
    kernel = np.concatenate([sum(pair) for pair in zip(kernels[::2], kernels[1::2], strict=True)])
    bias = share @ np.stack([head.bias - head.mean @ head.kernel for head in heads])
    sample = features[train[:: -(-len(train) // SAMPLE)]].astype(np.float32)
    set_logistic_head(model, kernel, bias, sample.mean(axis=0), sample.std(axis=0))
    record = {"stage": "head", "epoch": 1}
    for split, prefix in (("train", ""), ("val", "val_")):
        chunks = np.array_split(rows[split], len(rows[split]) // SAMPLE + 1)
        answers = np.concatenate([features[chunk].astype(np.float32) @ kernel for chunk in chunks]) + bias
        right = answers.argmax(axis=1) == targets[split].argmax(axis=1)
        loss = np.average(_losses(answers, targets[split]), weights=weights[rows[split]])
        record |= {f"{prefix}loss": loss, f"{prefix}accuracy": right.mean()}
    history = pd.DataFrame([record | {"learning_rate": np.nan}])
    history.attrs["blocks"] = [
        {"block": name, "head": kind, **_interval(_losses(answers, targets["train"]), counts, group), "share": part}
        for (name, kind), answers, part in zip(itertools.product(blocks, KINDS), odds, share.tolist(), strict=True)
    ]
    return history


def _shares(odds: list[np.ndarray], targets: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """How much each head's log-odds count, 0 or more: what makes their sum explain the labels best."""
    n, k = targets.shape
    # Smoothed as by one more row of each class (Platt 1999): a few rows, all right, make nothing certain.
    targets = (n * targets + 1) / (n + k)

    def loss(share: np.ndarray) -> float:
        return np.average(_losses(np.tensordot(share, odds, 1), targets), weights=counts)

    start = np.full(len(odds), 1 / len(odds))
    return minimize(loss, start, bounds=[(0, None)] * len(odds)).x


def _losses(answers: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Cross-entropy (n,) of log-odds (n, K)."""
    return logsumexp(answers, axis=1) - (answers * targets).sum(axis=1)


def _interval(losses: np.ndarray, counts: np.ndarray, group: np.ndarray) -> dict[str, float]:
    """Mean of the losses, each as much as its row counts (1 on average), and its interval; groups are its units."""
    mean = np.average(losses, weights=counts)
    half = 1.96 * np.sqrt(np.mean((counts * (losses - mean)) ** 2) / (group.max() + 1))
    return {"log_loss": mean, "low": mean - half, "high": mean + half}


def one_hot(labels: pd.Series, rows: dict[str, np.ndarray], names: list[str]) -> dict[str, np.ndarray]:
    """Targets float32 (n, K) of each split, after checking that there is something to learn and to judge by."""
    codes = pd.Index(names).get_indexer(labels)
    chosen = np.concatenate(list(rows.values()))
    unknown = sorted(set(labels.iloc[chosen[codes[chosen] < 0]]))
    if unknown:
        raise ValueError(f"Labels must be classes of the model ({', '.join(names)}). Received: {', '.join(unknown)}.")
    absent = [name for i, name in enumerate(names) if not (codes[rows["train"]] == i).any()]
    if absent:
        way_out = "Add images, or leave the class out with class_map"
        raise ValueError(f"Every class needs training images. Without any: {', '.join(absent)}. {way_out}.")
    if not len(rows["val"]):
        raise ValueError("There is no validation image. Expected rows with split 'val'; see data.assign_splits.")
    return {split: np.eye(len(names), dtype=np.float32)[codes[some]] for split, some in rows.items()}


def compile_classifier(model: keras.Model, optimizer: keras.Optimizer, label_smoothing: float = 0.0) -> None:
    """Cross-entropy on one-hot labels, accuracy beside it."""
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=label_smoothing)
    model.compile(optimizer, loss=loss, metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")])


def row_weights(targets: np.ndarray, weights: np.ndarray, kind: str | None = None) -> np.ndarray:
    """How much each row of one-hot `targets` counts, 1 on average: `weights`, "balanced" by the sum of its class."""
    if kind not in (None, "balanced"):
        raise ValueError(f"class_weight must be 'balanced' or None. Received: {kind!r}.")
    counts = weights / np.maximum(weights @ targets, 1e-9)[targets.argmax(axis=1)] if kind else weights
    return counts / counts.mean()


def predict(
    model: keras.Model, table: pd.DataFrame, data_dir: Path, *, cache_dir: Path | None = None, progress: bool = True
) -> np.ndarray:
    """Probabilities float32 (N, K) of the rows of the images table; NaN where a picture cannot be read.

    Where `cache_dir` holds the features of all rows (`model.block_features`), as where stage 2 was left out or gained
    nothing, none is opened again. They are float16: probabilities move by less than a thousandth.
    """
    blocks = head_blocks(model)
    if cache_dir is not None and not len(missing_rows(model, table, cache_dir=cache_dir, blocks=blocks)):
        return head_answers(model, table, data_dir, cache_dir=cache_dir)
    found = np.full((len(table), model.output_shape[-1]), np.nan, np.float32)
    how = {"size": image_size(model), "batch_size": BATCH}
    files = Files(str(data_dir), max_pixels=table.attrs.get("max_pixels", MAX_PIXELS))  # that of the scan
    answers = itertools.chain.from_iterable(stream_answers(enumerate(table["path"]), files, forward_pass(model), **how))
    for answer in tqdm(answers, total=len(table), desc="predictions", unit="img", disable=not progress):
        if answer.values is not None:
            found[answer.position] = answer.values[0]
    return found


def predictions_table(table: pd.DataFrame, pred_probs: np.ndarray, class_names: Sequence[str]) -> pd.DataFrame:
    """What `predictions.parquet` holds: `path`, `split`, one column a class; none may be called like those two."""
    check_class_names(class_names)
    probabilities = pd.DataFrame(pred_probs, columns=list(class_names), index=table.index)
    return pd.concat([table[["path", "split"]], probabilities], axis=1).reset_index(drop=True)
