"""May a model compute in fewer bits? Only where its answers were compared with those in float32, on pictures."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from nsfwlib import demo, runs
from nsfwlib.model.runtime import Forward, has_bfloat16, keep_files, kept_hash, open_converted, require_openvino
from nsfwlib.model.stream import decoded_batches

PRECISIONS = ("auto", "float32", "bfloat16", "int8")
CALIBRATED, COMPARED = 200, 300  # pictures that int8 takes its ranges from, and others that answers are compared on
# share of the predicted classes that change, mean change of a probability
BOUNDS = {"bfloat16": (0.001, 0.001), "int8": (0.005, 0.004)}
_BATCH = 16

Sample = Callable[[int], np.ndarray]  # a number → at most so many pictures of those to be scored, uint8 (n, S, S, 3)


def choose_precision(path: Path, wish: str, sample: Sample, *, size: int) -> tuple[str, dict[str, Any]]:
    """The precision in force for a converted model, and how its answers agree with float32 ({} for float32).

    A comparison is made once and kept beside the converted file. Measured on the published InceptionV3 and 508 real
    pictures: bfloat16 changes no predicted class and a probability by .0007, int8 0.2 % and .0025.

    Args:
        path: the converted model, `model.kept_path`.
        wish: "float32"; "bfloat16"; "int8"; or "auto": bfloat16 where the processor has it, there are pictures enough
            to tell, and the answers agree, else float32.
        sample: draws from the pictures that are to be scored. Where there are fewer than it takes, drawn and shipped
            ones fill up what "bfloat16" and "int8" are compared on; `filled_up` counts them.
        size: S.

    Raises:
        ValueError: an unknown precision; or one asked for that the processor does not have, or whose answers are not
            within `BOUNDS`.
        ImportError: "int8" needs nncf.
    """
    if wish not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}. Received: {wish!r}.")
    if wish == "float32" or (wish == "auto" and not has_bfloat16()):
        return "float32", {}
    if wish == "bfloat16" and not has_bfloat16():
        raise ValueError(
            "precision='bfloat16' needs a processor with bfloat16. Received: one without, where it would gain nothing. "
            "Use 'auto', or 'int8'."
        )
    precision = "int8" if wish == "int8" else "bfloat16"
    found = _kept_agreement(path, precision)
    if not found:
        pictures = sample(COMPARED + CALIBRATED * (precision == "int8"))
        if wish == "auto" and len(pictures) < COMPARED:
            return "float32", {}
        found = _compare(path, precision, pictures, size)
    if within_bounds(found, precision):
        return precision, found
    if wish == "auto":
        return "float32", {}
    raise ValueError(
        f"precision={wish!r} must change at most {BOUNDS[precision][0]:.1%} of the predicted classes and a probability "
        f"by {BOUNDS[precision][1]} on average. Received: {in_words(found)}. Use precision='float32'."
    )


def within_bounds(found: dict[str, Any], precision: str) -> bool:
    """Are the differences of an `agreement` within `BOUNDS`?"""
    changed, mean = BOUNDS[precision]
    return bool(found["changed"] <= changed and found["mean_change"] <= mean)


def in_words(found: dict[str, Any]) -> str:
    """An `agreement` in a sentence's part."""
    filled = f", {found['filled_up']} of them drawn or shipped ones" if found.get("filled_up") else ""
    return (
        f"{found['changed']:.1%} of the predicted classes changed (at most {found['changed_high']:.1%} with 95 % "
        f"confidence), a probability by {found['mean_change']:.4f} on average and {found['largest_change']:.3f} at "
        f"most, rank correlation of scores {found['rank_correlation']:.4f}, on {found['pictures']} pictures{filled}"
    )


def agreement(exact: np.ndarray, lowered: np.ndarray) -> dict[str, Any]:
    """How probabilities (N, K) in lowered precision agree with the exact ones.

    Returns:
        `pictures`; `changed`, the share whose predicted class differs, and `changed_high`, its upper limit with 95 %
        confidence (Clopper-Pearson); `mean_change` and `largest_change` of a probability; `rank_correlation`
        (Spearman), the lowest of the classes that are predicted at all.
    """
    count, predicted = len(exact), exact.argmax(axis=1)
    changed = int((predicted != lowered.argmax(axis=1)).sum())
    ranks = [stats.spearmanr(exact[:, k], lowered[:, k]).statistic for k in np.unique(predicted)]
    return {
        "pictures": count,
        "changed": changed / count,
        "changed_high": float(stats.beta.ppf(0.95, changed + 1, count - changed)) if changed < count else 1.0,
        "mean_change": float(np.abs(exact - lowered).mean()),
        "largest_change": float(np.abs(exact - lowered).max()),
        "rank_correlation": float(min(ranks)),
    }


def lowered_path(path: Path, precision: str) -> Path:
    """The file that computes in `precision`: int8 has its own, bfloat16 is computed from the float32 one."""
    return path.with_name(f"{path.stem}-int8.xml") if precision == "int8" else path


def open_lowered(path: Path, precision: str, *, threads: int | None = None) -> Forward:
    """`open_converted` of a converted model in `precision`."""
    return open_converted(lowered_path(path, precision), threads=threads, bfloat16=precision == "bfloat16")


def _note(path: Path, precision: str) -> Path:
    return path.with_name(f"{path.stem}-{precision}.json")


def _kept_agreement(path: Path, precision: str) -> dict[str, Any]:
    try:
        found = runs.read_json(_note(path, precision))
    except (FileNotFoundError, ValueError):
        return {}
    file = lowered_path(path, precision)
    return found if file.exists() and found.pop("of", None) == kept_hash(file) else {}


def _compare(path: Path, precision: str, pictures: np.ndarray, size: int) -> dict[str, Any]:
    """Quantise if need be, compare on other pictures, and keep what was found."""
    wanted = COMPARED + CALIBRATED * (precision == "int8")
    filled = wanted - len(pictures)
    pictures = np.concatenate([pictures, _other_pictures(filled, size)]) if filled > 0 else pictures[:wanted]
    pictures = np.random.default_rng(0).permutation(pictures)
    if precision == "int8":
        _quantise(path, pictures[:CALIBRATED])
    compared = pictures[-COMPARED:]
    exact, lowered = (_answers(open_lowered(path, p), compared) for p in ("float32", precision))
    found = {**agreement(exact, lowered), "filled_up": max(filled, 0)}
    runs.write_json({**found, "of": kept_hash(lowered_path(path, precision))}, _note(path, precision))
    return found


def _answers(forward: Forward, pictures: np.ndarray) -> np.ndarray:
    return np.concatenate([forward(pictures[i : i + _BATCH])[0] for i in range(0, len(pictures), _BATCH)])


def _other_pictures(count: int, size: int) -> np.ndarray:
    """Shipped photographs and drawn pictures, uint8 (count, S, S, 3)."""
    with tempfile.TemporaryDirectory() as folder:
        drawn = Path(folder) / "drawn"
        demo.make_demo(drawn, images_per_class=count // 5 + 20)  # some of them are broken on purpose
        paths = [*demo.shipped_photographs(), *sorted(path for path in drawn.rglob("*") if path.is_file())]
        order = np.random.default_rng(0).permutation(len(paths))
        batches = decoded_batches([paths[i] for i in order], size=size)
        return np.concatenate([pixels for _, pixels, _ in batches])[:count]


def _quantise(path: Path, pictures: np.ndarray) -> None:
    """Write the int8 file: ranges from `pictures`, weights by channel, activations asymmetric where that helps."""
    openvino = require_openvino()
    os.environ.setdefault("NNCF_CI", "1")  # it would report to its makers
    try:
        import nncf
    except ImportError:
        raise ImportError("precision='int8' needs nncf. Run: pip install 'nsfwlib[openvino]'") from None
    dataset = nncf.Dataset([picture[None].astype(np.float32) for picture in pictures])
    model = openvino.Core().read_model(path)
    with contextlib.redirect_stdout(io.StringIO()):  # it draws bars
        quantised = nncf.quantize(model, dataset, preset=nncf.QuantizationPreset.MIXED, subset_size=len(pictures))
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        fresh = Path(scratch) / "int8.xml"
        openvino.save_model(quantised, fresh, compress_to_fp16=False)
        target = lowered_path(path, "int8")
        target.unlink(missing_ok=True)
        keep_files(fresh, target)
