"""How does a converted model answer without TensorFlow, where is it kept, and may it compute in fewer bits?

OpenVINO computes, on the processor; in fewer bits only where answers were compared with those in float32, on pictures.
The first answer comes in a second; TensorFlow alone takes ten to start.
"""

import contextlib
import hashlib
import importlib.util
import io
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import betaincinv  # scipy.stats would take longer to load than the network

from nsfwlib import demo, runs
from nsfwlib.files import file_hash, writable_folder
from nsfwlib.model.stream import Forward, decoded_batches

RUNTIMES = ("auto", "tensorflow", "openvino")
PRECISIONS = ("auto", "float32", "bfloat16", "int8")
CALIBRATED, COMPARED = 200, 300  # pictures that int8 takes its ranges from, and others that answers are compared on
# share of the predicted classes that change, mean change of a probability; of 508 real pictures the published model
# changed none and .0007 in bfloat16, 0.2 % and .0025 in int8
BOUNDS = {"bfloat16": (0.001, 0.001), "int8": (0.005, 0.004)}
_BATCH = 16
_GPUS = ("/dev/nvidia0", "/dev/dxg", "/dev/kfd")  # NVIDIA, NVIDIA under WSL, AMD

Sample = Callable[[int], np.ndarray]  # a number → at most so many pictures of those to be scored, uint8 (n, S, S, 3)


def openvino_usable() -> bool:
    """Is OpenVINO installed, and a CPU what there is to compute on?"""
    return importlib.util.find_spec("openvino") is not None and not any(map(os.path.exists, _GPUS))


def require_openvino() -> ModuleType:
    """openvino, kept from reporting to its makers; an ImportError where it is not installed."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # then it and nncf do without
    try:
        import openvino
    except ImportError:
        raise ImportError("runtime='openvino' needs OpenVINO. Run: pip install 'nsfwlib[openvino]'") from None
    return openvino


def has_bfloat16() -> bool:
    """Does the processor compute in bfloat16 itself? Elsewhere it would be no faster than float32."""
    return "BF16" in require_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def kept_path(cache_dir: Path, identities: Sequence[str], outputs: Sequence[str] = ("probabilities",)) -> Path:
    """Where the converted model of outputs of these `model.model_identity` is kept: `.xml`, its weights in a `.bin`."""
    name = "-".join(f"{output}-{identity}" for output, identity in zip(outputs, identities, strict=True))
    return Path(cache_dir) / "openvino" / f"{name}.xml"


def lowered_path(path: Path, precision: str) -> Path:
    """The file that computes in `precision`: int8 has its own, bfloat16 is computed from the float32 one."""
    return path.with_name(f"{path.stem}-int8.xml") if precision == "int8" else path


def open_converted(
    path: Path, outputs: Sequence[str] = ("probabilities",), *, precision: str = "float32", threads: int | None = None
) -> Forward:
    """What computes `outputs`, in their order, from the model kept at `path` (`kept_path`) in `precision`.

    `threads` compute; as many as there are cores by default. A RuntimeError where the file does not open, or is not as
    it was written: then it is gone, and converted anew by the next call.
    """
    openvino, path = require_openvino(), lowered_path(path, precision)
    if path.exists() and kept_hash(path) not in ("", _hash(path)):
        path.unlink()
        raise RuntimeError(f"{path} is damaged and was removed. Run again: the model is converted anew.")
    how = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
        "INFERENCE_NUM_THREADS": threads or os.cpu_count() or 1,
        "PERFORMANCE_HINT": "LATENCY",  # one batch at a time, all threads on it: the decoders need the memory
    }
    try:
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(path), "CPU", how)
    except Exception as error:  # of several kinds, none of them documented
        raise RuntimeError(
            f"{path} could not be opened and was kept: {error} Free memory and run again, or use runtime='tensorflow'; "
            "if nothing helps, delete the file, and the model is converted anew."
        ) from error

    def forward(pixels: np.ndarray) -> list[np.ndarray]:
        found: Any = compiled(pixels.astype(np.float32, copy=False))
        return [found[name] for name in outputs]

    return forward


def keep_converted(path: Path, make: Callable[[Any], Any], check: Callable[[Path], None] | None = None) -> None:
    """Have the model that `make` makes with openvino at `path`, if it is not there, with its sha256 beside it.

    It comes whole or not at all, the `.xml` last, and only if `check` does not raise for the file.
    """
    if path.exists():
        return
    openvino = require_openvino()
    writable_folder(path.parent, "cache_dir")
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        fresh = Path(scratch) / path.name
        openvino.save_model(make(openvino), fresh, compress_to_fp16=False)
        if check:
            check(fresh)
        if not path.exists():  # another process may have been first
            path.with_suffix(".sha256").write_text(_hash(fresh))
            fresh.with_suffix(".bin").replace(path.with_suffix(".bin"))
            fresh.replace(path)


def kept_hash(path: Path) -> str:
    """What `keep_converted` noted of the files; empty where there is no note."""
    note = path.with_suffix(".sha256")
    return note.read_text() if note.exists() else ""


def _hash(path: Path) -> str:
    parts = [file_hash(part) for part in (path, path.with_suffix(".bin")) if part.exists()]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def choose_precision(path: Path, wish: str, sample: Sample, *, size: int) -> tuple[str, dict[str, Any]]:
    """The precision in force for a converted model, and how its answers agree with float32 ({} for float32).

    A comparison is made once and kept beside the converted file.

    Args:
        path: the converted model of pictures of `size` pixels a side, `model.kept_path`.
        wish: "float32"; "bfloat16"; "int8"; or "auto": bfloat16 where the processor has it, there are pictures enough
            to tell, and the answers agree, else float32.
        sample: draws from the pictures that are to be scored. Where there are fewer than it takes, drawn and shipped
            ones fill up what "bfloat16" and "int8" are compared on; `filled_up` counts them.

    A ValueError where the precision is unknown, the processor lacks it, or answers are not within `BOUNDS`.
    """
    if wish not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}. Received: {wish!r}.")
    precision = "bfloat16" if wish == "auto" else wish
    able = precision != "bfloat16" or has_bfloat16()
    if wish == "float32" or (wish == "auto" and not able):
        return "float32", {}
    if not able:
        raise ValueError("precision='bfloat16' needs a processor with bfloat16, unlike this one. Use 'auto' or 'int8'.")
    note, file, found = path.with_name(f"{path.stem}-{precision}.json"), lowered_path(path, precision), {}
    with contextlib.suppress(FileNotFoundError, ValueError):  # none, or cut short
        found = runs.read_json(note)
    if not file.exists() or found.pop("of", None) != kept_hash(file):
        wanted = COMPARED + CALIBRATED * (precision == "int8")
        pictures = sample(wanted)
        if wish == "auto" and len(pictures) < wanted:
            return "float32", {}
        found = _compared(path, precision, pictures, wanted, size)
        runs.write_json({**found, "of": kept_hash(file)}, note)
    changed, mean = BOUNDS[precision]
    if found["changed"] <= changed and found["mean_change"] <= mean:
        return precision, found
    if wish == "auto":
        return "float32", {}
    raise ValueError(
        f"precision={wish!r} must change at most {changed:.1%} of the predicted classes and a probability by {mean} on "
        f"average. Received: {in_words(found)}. Use precision='float32'."
    )


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

    `pictures`; `changed`, the share whose predicted class differs, and `changed_high`, its upper limit with 95 %
    confidence (Clopper-Pearson); `mean_change` and `largest_change` of a probability; `rank_correlation` (Spearman),
    the lowest of the classes that are predicted at all.
    """
    count, predicted, change = len(exact), exact.argmax(axis=1), np.abs(exact - lowered)
    changed = int((predicted != lowered.argmax(axis=1)).sum())
    pairs = [pd.DataFrame({"exact": exact[:, k], "lowered": lowered[:, k]}) for k in np.unique(predicted)]
    return {
        "pictures": count,
        "changed": changed / count,
        "changed_high": float(betaincinv(changed + 1, count - changed, 0.95)) if changed < count else 1.0,
        "mean_change": float(change.mean()),
        "largest_change": float(change.max()),
        "rank_correlation": float(min(pair.corr("spearman").iloc[0, 1] for pair in pairs)),
    }


def _compared(path: Path, precision: str, pictures: np.ndarray, wanted: int, size: int) -> dict[str, Any]:
    """The agreement on `COMPARED` pictures; int8 is quantised by the others before."""
    missing = max(wanted - len(pictures), 0)
    pictures = np.concatenate([pictures[:wanted], _other_pictures(missing, size)]) if missing else pictures[:wanted]
    pictures = np.random.default_rng(0).permutation(pictures)
    if precision == "int8":
        target = lowered_path(path, precision)
        target.unlink(missing_ok=True)
        keep_converted(target, lambda ov: quantised(ov.Core().read_model(path), pictures[:CALIBRATED]))
    compared = pictures[-COMPARED:]
    batches = [compared[i : i + _BATCH] for i in range(0, len(compared), _BATCH)]
    passes = [open_converted(path, precision=each) for each in ("float32", precision)]
    exact, lowered = (np.concatenate([forward(batch)[0] for batch in batches]) for forward in passes)
    return {**agreement(exact, lowered), "filled_up": missing}


def _other_pictures(count: int, size: int) -> np.ndarray:
    """Shipped photographs and drawn pictures, uint8 (count, S, S, 3)."""
    with tempfile.TemporaryDirectory() as folder:
        drawn = Path(folder) / "drawn"
        demo.make_demo(drawn, images_per_class=count // 5 + 20)  # some of them are broken on purpose
        paths = [*demo.shipped_photographs(), *sorted(path for path in drawn.rglob("*") if path.is_file())]
        order = np.random.default_rng(0).permutation(len(paths))
        batches = decoded_batches([paths[i] for i in order], size=size)
        return np.concatenate([pixels for _, pixels, _ in batches])[:count]


def quantised(network: Any, pictures: np.ndarray) -> Any:
    """The model in int8: ranges from `pictures`, weights by channel, activations asymmetric where that helps."""
    os.environ.setdefault("NNCF_CI", "1")  # it would report to its makers
    try:
        import nncf
    except ImportError:
        raise ImportError("precision='int8' needs nncf. Run: pip install 'nsfwlib[openvino]'") from None
    dtype = network.input().get_element_type().to_dtype()
    dataset = nncf.Dataset([picture[None].astype(dtype) for picture in pictures])
    options = {"preset": nncf.QuantizationPreset.MIXED, "subset_size": len(pictures)}
    options["ignored_scope"] = nncf.IgnoredScope(_behind_convolutions(network), validate=False)
    with contextlib.redirect_stdout(io.StringIO()):  # it draws bars
        return nncf.quantize(network, dataset, **options)


def _behind_convolutions(network: Any) -> list[str]:
    """Names of what no convolution follows: the spread of features differs too much for eight bits in common."""
    needed, found = set(), []
    for step in reversed(network.get_ordered_ops()):
        if "Convolution" in step.get_type_name() or step.get_friendly_name() in needed:
            needed.update(source.get_node().get_friendly_name() for source in step.input_values())
        elif step.get_type_name() not in ("Constant", "Result"):
            found.append(step.get_friendly_name())
    return found
