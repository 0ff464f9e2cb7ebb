"""How does the model leave the notebook? In the formats of servers, phones and browsers, each checked for parity."""

import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from nsfwlib import runs
from nsfwlib._tensorflow import keras, stderr_aside, tf
from nsfwlib.data import load_image, sniff
from nsfwlib.demo import shipped_photographs
from nsfwlib.export.formats import FORMATS, Source, preprocessing
from nsfwlib.export.parity import compare_answers, open_keras, picture_windows
from nsfwlib.files import writable_folder
from nsfwlib.model import image_size, model_identity

PARITY_COLUMNS = (
    "path", "size_mb", "ms_per_image", "largest_difference", "changed_argmax", "changed_share", "pictures", "tolerated",
    "tolerance", "files_difference", "files_changed", "files", "runtime",
)  # fmt: skip


def export(
    model: keras.Model,
    out_dir: Path,
    formats: Sequence[str] = tuple(FORMATS),
    *,
    pictures: Sequence[Path] | None = None,
    views: int = 64,
    node_modules: Path | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Write `model` in each of `formats` to `<out_dir>/<format>/`, checked against the model itself; all or nothing.

    Beside each export lie `classes.json` (names in the order of the outputs) and `preprocessing.json` (what it must be
    given); `parity.csv` holds the table.

    Args:
        model: a classifier: raw RGB 0–255 (B, S, S, 3) → probabilities (B, K).
        out_dir: a folder that does not exist yet.
        formats: keys of `FORMATS`.
        pictures: photographs like those it will see, at least two, by default those that installed packages ship: it is
            compared on every second one, and int8 takes the ranges of its numbers from the others.
        views: how many pixel arrays to compare: the pictures, and windows of them.
        node_modules: as from `export.install_nsfwjs`: the web formats are asked through nsfwjs in Node, and timed.
            Without it their files are read back and run by Keras.

    Returns:
        One row a format, after "keras" itself: `path`, `size_mb`, `ms_per_image` (one picture at a time, median),
        `largest_difference` of a probability on equal pixel arrays, `changed_argmax` and its `changed_share` of
        `pictures`, `tolerated` (the column that is limited) and `tolerance`, `files_difference` and `files_changed`
        where the format decodes or resizes by itself, and the `runtime` that answered.

    Raises:
        ValueError: an unknown format, a model that does not take raw RGB, or an export outside its tolerance.
        FileExistsError: `out_dir` exists.
        ImportError: a format needs a package that is not installed.
        RuntimeError: a converter failed.
    """
    names, size, out_dir, first = _checked_formats(formats), image_size(model), Path(out_dir), model.layers[1]
    if not isinstance(first, keras.layers.Rescaling):
        raise ValueError(
            "Expected a model that takes raw RGB 0–255 and rescales it in its first layer. "
            f"Received: {model.name!r} with first layer {first.name!r}. Build it with model.build_classifier."
        )
    if out_dir.exists():
        raise FileExistsError(f"out_dir exists: {out_dir}. Choose another folder, or move that one away.")
    pictures = [Path(path) for path in (shipped_photographs() if pictures is None else pictures)]
    if len(pictures) < 2:
        raise ValueError(f"pictures must be two or more photographs. Received: {len(pictures)}.")
    pictures, representative = pictures[::2][:views], pictures[1::2][:views]
    writable_folder(out_dir.parent, "the folder of out_dir")
    with tempfile.TemporaryDirectory(dir=out_dir.parent, prefix=f".{out_dir.name}.") as scratch:
        whole = Path(scratch) / "whole"
        whole.mkdir()
        calibration = picture_windows(representative, size=size, count=views, seed=seed + 1)
        source = Source(model, calibration, Path(scratch))
        for name in names:
            _write(name, source, whole / name)
        pixels = picture_windows(pictures, size=size, count=views, seed=seed)
        table = _parity_table(source, whole, names, pixels, pictures, node_modules)
        _check_tolerances(table)
        table.to_csv(whole / "parity.csv")
        facts = {"settings": {"model": model_identity(model), "formats": names}, "class_names": source.class_names}
        versions = {"tensorflow": tf.__version__, "keras": keras.__version__}
        runs.write_json({**facts, "versions": versions}, whole / "export.json")
        whole.replace(out_dir)
    return table


def _checked_formats(formats: Sequence[str]) -> list[str]:
    names = [formats] if isinstance(formats, str) else list(dict.fromkeys(formats))
    unknown = [name for name in names if name not in FORMATS]
    if unknown or not names:
        raise ValueError(f"formats must be some of {', '.join(FORMATS)}. Received: {', '.join(map(str, unknown))!r}.")
    for name in names:
        if missing := FORMATS[name].missing():
            raise ImportError(f"The format {name} {missing}")
    return names


@contextmanager
def _quiet() -> Iterator[None]:
    """Converters talk through C++, Python's logging and warnings; nobody but their authors can use it."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with stderr_aside(), warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)


def _write(name: str, source: Source, folder: Path) -> None:
    folder.mkdir()
    try:
        with _quiet():
            FORMATS[name].write(source, folder)
    except (ValueError, ImportError):
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[-1][:300]
        raise RuntimeError(
            f"The converter to {name} failed, nothing was written: {type(error).__name__}: {reason}. Leave {name} out "
            "of formats to export the others."
        ) from error
    facts = preprocessing(name, source)
    for file, content in (("classes.json", source.class_names), ("preprocessing.json", facts)):
        (folder / file).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _parity_table(
    source: Source, whole: Path, names: Sequence[str], pixels: np.ndarray, files: Sequence[Path], node: Path | None
) -> pd.DataFrame:
    """What each format answers to `pixels` (N, S, S, 3) against Keras, and to JPEG and PNG `files` that it reads."""
    itself = open_keras(source.model)
    expected, milliseconds = itself.answer(pixels)
    files = [path for path in files if sniff(path.read_bytes())[0] in ("JPEG", "PNG")]
    of_files = itself.answer(np.stack([load_image(path, size=source.size) for path in files]))[0] if files else None
    about = {"size_mb": source.model.count_params() * 4 / 1e6, "ms_per_image": milliseconds, "runtime": itself.name}
    rows = {"keras": about | compare_answers(expected, expected)}
    for name in names:
        each, folder = FORMATS[name], whole / name
        with _quiet():
            runtime = each.open(folder, **({"size": source.size, "node_modules": node} if each.web else {}))
            found, milliseconds = runtime.answer(pixels)
            theirs = runtime.from_files(files) if runtime.from_files and files else None
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
        rows[name] = {"path": name, "size_mb": size, "ms_per_image": milliseconds, "runtime": runtime.name}
        rows[name] |= compare_answers(expected, found) | {"tolerated": each.tolerated, "tolerance": each.tolerance}
        if theirs is not None:
            read = np.isfinite(theirs).all(axis=1)
            apart = compare_answers(of_files[read], theirs[read])
            rows[name] |= {"files_difference": apart["largest_difference"], "files_changed": apart["changed_argmax"]}
            rows[name] |= {"files": int(read.sum())}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("format").assign(pictures=len(pixels))
    return table.reindex(columns=list(PARITY_COLUMNS))


def _check_tolerances(table: pd.DataFrame) -> None:
    wrong = [
        f"{name}: {row['tolerated'].replace('_', ' ')} {row[row['tolerated']]:.2g}, at most {row['tolerance']:g}"
        for name, row in table.iloc[1:].iterrows()
        if not row[row["tolerated"]] <= row["tolerance"]
    ]
    if wrong:
        raise ValueError(
            f"Exports must answer as the model on {table['pictures'].iloc[0]} pictures. Received: {'; '.join(wrong)}. "
            "Nothing was written. Leave the format out, or, for int8, give pictures like those it will see."
        )
