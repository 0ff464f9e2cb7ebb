"""What does a model say of these files? Any folder, any size, on this machine or on a Ray cluster.

Pictures are decoded ahead of the model, answers go to a work file beside the table as they come, and the table is
written at the end: memory is flat, a broken file is a row, an interrupt or a kill loses seconds.

    python -m nsfwlib.scoring FOLDER --model published --out scores.parquet
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import operator
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from tqdm.auto import tqdm

from nsfwlib import scoring_files, scoring_models, scoring_store, scoring_stream

if TYPE_CHECKING:
    import keras

COMMIT_SECONDS = 2  # what a kill may cost
IN_FLIGHT = 12  # batches: 3 are decoded ahead, and 8 of broken files may gather until there is a picture to compute
ENGINES = ("local", "ray")
RUNTIMES = ("auto", "tensorflow", "onnxruntime")


def score(
    model: keras.Model | Path | str,
    source: Any,
    *,
    out: Path,
    engine: str = "local",
    runtime: str = "auto",
    data_dir: Path | None = None,
    filesystem: Any = None,
    class_names: Sequence[str] | None = None,
    rescaling: tuple[float, float] = (1 / 255, 0.0),
    frames: int = 8,
    batch_size: int = 16,
    workers: int | None = None,
    cluster: Mapping[str, Any] | None = None,
    cache_dir: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Score every file of `source` → the table at `out`, one row a file, in the order of the source.

    Columns: `path`; `sha256` of the bytes; `frames` that were scored; one probability a class, for an animation the
    mean over its frames; `<class>_max`, the highest over its frames; `predicted`, the class with the highest
    probability; `problem` ("" or a key of `images.REASONS`; then there are no probabilities) and `detail`;
    `scored_by`, which changes with the model and with `frames`.

    An interrupted call is taken up by the same call. If a file ended the process, that call finds it, by decoding it in
    another process, and it becomes a row. Contents that are scored are not scored again: not after an interrupt, not
    the second copy of a file, not those of a finished table with `resume`.

    Args:
        model: "published" (the 2019 InceptionV3), a `.keras` file, or a loaded model.
        source: a folder, a glob, a file, a list of files, a table with the column `path`, or a URL that fsspec knows.
        out: a .parquet, .csv or .jsonl file.
        engine: "local", or "ray" for the machines of a cluster; the answers are the same.
        runtime: "tensorflow", "onnxruntime" (the `onnx` extra), or "auto": ONNX Runtime where it is installed, the
            model is given by name or file and there is no GPU. It converts a model once, in half a minute, and from
            then on starts ten seconds sooner than TensorFlow, with the same answers.
        data_dir: what the paths of a list or table are relative to.
        filesystem: an fsspec or pyarrow file system on which `source` lies.
        class_names: wraps a model that this kit did not make: the classes, in the order of its outputs.
        rescaling: of a wrapped model: (scale, offset) from raw RGB 0–255 to what it expects.
        frames: at most so many frames of an animated GIF, WebP, APNG or AVIF, evenly spaced.
        batch_size: pictures a forward pass; on a GPU a few hundred are faster.
        workers: threads that decode, of each process; by default the cores, at most eight.
        cluster: options of `scoring_ray.answers`: address, actors, cpus, gpus.
        cache_dir: where converted models are kept; the user's cache folder by default.
        resume: take over the scores of a finished `out`; the table then has the files of this `source`.
        overwrite: replace a finished `out`, and a work file of another model.
        progress: show a bar with rate and time left.

    Raises:
        FileExistsError: `out` is there, and neither `resume` nor `overwrite` is asked for.
        FileNotFoundError: there is no such source or model file.
        ValueError: an option out of range, an empty source, a model that is not ours without `class_names`, a work
            file or table of another model.
        OSError: the disk is full or read-only. What was scored stays in the work file.
    """
    out = _checked_out(Path(out), resume=resume, overwrite=overwrite)
    _check_options(engine, runtime, frames=frames, batch_size=batch_size)
    files, rows = scoring_files.open_source(source, data_dir=data_dir, filesystem=filesystem)
    rows = _some(rows, source)
    options = {"cache_dir": cache_dir, "class_names": class_names, "rescaling": rescaling, "progress": progress}
    ready = scoring_models.make_ready(
        model, runtime="tensorflow" if (cluster or {}).get("gpus") else runtime, **options
    )
    names = scoring_models.check_columns(ready.class_names)
    scored_by = f"{ready.identity}-{frames}"
    options = {"size": ready.size, "frames": frames, "batch_size": batch_size, "workers": workers}
    run = _engine(engine, files, ready, runtime, options, cluster or {})
    try:
        with contextlib.closing(scoring_store.open_store(out, scored_by, discard=overwrite)) as store:
            if resume and out.exists():
                scoring_store.add_finished(store, out, names, scored_by)
            suspects = scoring_store.left_open(store, IN_FLIGHT * batch_size) if engine == "local" else []
            scoring_store.add_files(store, rows)
            if suspects:
                deadly = scoring_files.deadly(files, scoring_store.todo_of(store, suspects))
                scoring_store.add_answers(store, deadly)
            pictures = operator.sub(*scoring_store.count_files(store))
            found = run(scoring_store.todo(store), skip=scoring_store.Known(store), pictures=pictures)
            _keep(store, found, progress, every=0 if suspects else COMMIT_SECONDS)
            scoring_store.write(scoring_store.tables(store, names, scored_by), out)
    except (sqlite3.Error, OSError) as error:
        raise _disk_error(error, out) from error
    scoring_store.work_file(out).unlink(missing_ok=True)
    return scoring_store.read(out)


def _checked_out(out: Path, *, resume: bool, overwrite: bool) -> Path:
    if out.suffix not in scoring_store.FORMATS:
        raise ValueError(f"out must end in {', '.join(scoring_store.FORMATS)}. Received: {out.name!r}.")
    if resume and overwrite:
        raise ValueError("Expected one of resume and overwrite. Received both: keep the old scores, or replace them.")
    if out.exists() and not (resume or overwrite):
        raise FileExistsError(
            f"{out} exists. Take over its scores with resume=True (--resume), or replace it with overwrite=True "
            "(--overwrite)."
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PermissionError(f"{out.parent} cannot be written ({error.strerror}). Choose another out.") from error
    return out


def _some(rows: Iterator[scoring_files.Row], source: Any) -> Iterator[scoring_files.Row]:
    first = next(rows, None)
    if first is None:
        raise ValueError(f"Expected files to score. Received none: {source} is empty. Name another.")
    return itertools.chain([first], rows)


def _check_options(engine: str, runtime: str, **counts: int) -> None:
    for name, value, known in (("engine", engine, ENGINES), ("runtime", runtime, RUNTIMES)):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}. Received: {value!r}.")
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1. Received: {count}.")


def _engine(
    name: str,
    files: scoring_files.Files,
    ready: scoring_models.Ready,
    runtime: str,
    options: dict[str, Any],
    cluster: Mapping[str, Any],
) -> Callable[..., Iterator[list[scoring_stream.Answer]]]:
    """A function of the work to be done that yields the answers, here or on the cluster."""
    if name == "ray":
        from nsfwlib import scoring_ray

        model = ready.classifier or ready.onnx_file()
        return partial(scoring_ray.answers, files=files, model=model, runtime=runtime, **options, **cluster)

    def run(
        work: Iterator[tuple[int, str]], *, skip: scoring_store.Known, pictures: int
    ) -> Iterator[list[scoring_stream.Answer]]:
        forward = scoring_stream.warm(ready.forward(runtime, pictures), ready.size)
        yield from scoring_stream.answers(work, files=files, forward=forward, skip=skip, **options)

    return run


def _keep(
    store: sqlite3.Connection, found: Iterator[list[scoring_stream.Answer]], progress: bool, *, every: float
) -> None:
    """Answers into the work file as they come; what came before an interrupt is kept, too."""
    total, done = scoring_store.count_files(store)
    saved = time.monotonic()
    with tqdm(total=total, initial=done, desc="scores", unit="img", disable=not progress) as bar:
        try:
            for answers in found:
                scoring_store.add_answers(store, answers)
                bar.update(len(answers))
                if time.monotonic() - saved > every:
                    store.commit()
                    saved = time.monotonic()
        finally:
            found.close()
            store.commit()


def _disk_error(error: Exception, out: Path) -> OSError:
    work = scoring_store.work_file(out)
    kept = f" What was scored stays in {work}: the same call goes on from there." if work.exists() else ""
    if "locked" in str(error):
        return OSError(f"{work} is in use by another process that scores into {out}. Wait for it, or choose another.")
    return OSError(f"{out} could not be written: {error}.{kept}")


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m nsfwlib.scoring`: score a folder, a glob, files or a table; progress goes to standard error."""
    parser = argparse.ArgumentParser(prog="python -m nsfwlib.scoring", description=main.__doc__)
    parser.add_argument("source", nargs="+", help="a folder, a glob, files, a table with the column path, or a URL")
    parser.add_argument("--model", default="published", help='a .keras file, or "published" (default: %(default)s)')
    parser.add_argument(
        "--out", type=Path, default=Path("scores.parquet"), help=".parquet, .csv or .jsonl (%(default)s)"
    )
    parser.add_argument("--engine", choices=ENGINES, default="local", help="ray: the machines of a cluster")
    parser.add_argument("--runtime", choices=RUNTIMES, default="auto", help="auto: ONNX Runtime where it is installed")
    parser.add_argument("--data-dir", type=Path, help="what the paths of a table are relative to")
    parser.add_argument("--class-names", type=lambda text: text.split(","), metavar="A,B,…", help="of a foreign model")
    rescaling = "of a foreign model: it is given rgb · SCALE + OFFSET (default: 1/255 and 0)"
    parser.add_argument(
        "--rescaling", type=float, nargs=2, metavar=("SCALE", "OFFSET"), default=(1 / 255, 0.0), help=rescaling
    )
    parser.add_argument("--frames", type=int, default=8, help="of an animation, at most (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, help="pictures at a time (default: %(default)s)")
    parser.add_argument("--workers", type=int, help="threads that decode")
    parser.add_argument("--cache-dir", type=Path, help="where converted models are kept")
    parser.add_argument("--address", help="of a Ray cluster; default: this machine, or $RAY_ADDRESS")
    parser.add_argument("--actors", type=int, help="models on the Ray cluster; default: as many as fit")
    parser.add_argument("--gpus", type=float, default=0, help="of each Ray actor (default: %(default)s)")
    finished = parser.add_mutually_exclusive_group()
    finished.add_argument("--resume", action="store_true", help="take over the scores of a finished table")
    finished.add_argument("--overwrite", action="store_true", help="replace a finished table")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    options = vars(parser.parse_args(arguments))
    source, quiet = options.pop("source"), options.pop("quiet")
    cluster = {name: options.pop(name) for name in ("address", "actors", "gpus")}
    cluster = {name: value for name, value in cluster.items() if value}
    try:
        options = {**options, "rescaling": tuple(options["rescaling"]), "cluster": cluster, "progress": not quiet}
        table = score(options.pop("model"), source[0] if len(source) == 1 else source, **options)
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted. The same command goes on from here.\n")
        return 130
    except (ValueError, OSError, RuntimeError, ArithmeticError, ImportError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if not quiet:
        sys.stderr.write(f"{summary(table)}\n{options['out']}\n")
    return 0


def summary(table: pd.DataFrame) -> str:
    """One line: how many files, of what predicted class, and how many could not be scored."""
    counts = table.loc[table["problem"].eq(""), "predicted"].value_counts()
    parts = [f"{len(table):,} files", *(f"{count:,} {name}" for name, count in counts.items())]
    problems = table.loc[table["problem"].ne(""), "problem"].value_counts()
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in problems.items())
    return ", ".join([*parts, f"{problems.sum():,} with a problem ({reasons})"] if len(problems) else parts)


if __name__ == "__main__":
    sys.exit(main())
