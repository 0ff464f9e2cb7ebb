"""What does a model say of these files? Any folder, any size: memory is flat, a broken file is a row.

Answers go to a work file beside the table as they come: an interrupt or a kill loses seconds.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from tqdm.auto import tqdm

from nsfwlib.data import MAX_PIXELS, ImageProblem, load_video
from nsfwlib.files import saving, writable_folder
from nsfwlib.model import COMPARED, RUNTIMES, Answer, cluster_answers, make_ready, stream_answers
from nsfwlib.score.source import deadly_files, open_source, sample_pictures
from nsfwlib.score.store import FORMATS, Store, check_columns, precision_before, read_scores, work_file

if TYPE_CHECKING:
    import keras

COMMIT_SECONDS = 2  # what a kill may cost
IN_FLIGHT = 12  # batches: 3 are decoded ahead, and 8 of broken files may gather until there is a picture to compute
PLACES = ("local", "ray")


def score(
    model: keras.Model | Path | str,
    source: Any,
    *,
    out: Path,
    where: str = "local",
    runtime: str = "auto",
    precision: str = "auto",
    data_dir: Path | None = None,
    filesystem: Any = None,
    class_names: Sequence[str] | None = None,
    rescaling: tuple[float, float] = (1 / 255, 0.0),
    frames: int = 8,
    key_frames: bool = False,
    max_pixels: int = MAX_PIXELS,
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
    probability; `problem` ("" or a key of `data.REASONS`; then there are no probabilities) and `detail`; `scored_by`,
    which changes with model, `frames` and precision. `attrs` hold the `precision` and its `agreement` with float32.

    An interrupted call is taken up by the same call; a file that ended the process then becomes a row. Contents that
    are scored, copies among them, are not scored again.

    Args:
        model: "published" (the 2019 InceptionV3), a `.keras` file, an `.onnx` file of anybody's with a JSON beside it
            (see `model.read_description`), or a loaded model.
        source: a folder (walked as the scan does), a glob, a file, a list of files, a table with the column `path` (a
            DataFrame, or a .parquet or .csv file), or a URL that fsspec knows such as "s3://bucket/folder".
        out: a .parquet, .csv or .jsonl file.
        where: "local", or "ray" for the machines of a cluster; the answers are the same.
        runtime: "tensorflow", "openvino" (the extra of that name), or "auto": OpenVINO where it is installed, the model
            is given by name or file and there is no GPU; once converted, it starts ten seconds sooner.
        precision: "float32"; "bfloat16"; "int8", which needs nncf; or "auto": bfloat16 where the processor has it and
            its answers agree with float32 on 300 of these pictures, else float32; see `model.choose_precision`. A
            call that goes on, and `resume`, keep to the precision of what is there.
        data_dir: what the paths of a list or table are relative to; by default the current folder.
        filesystem: an fsspec or pyarrow file system on which `source` lies.
        class_names: of a foreign model, in the order of its outputs; it is given rgb · scale + offset (`rescaling`).
        frames: at most so many of a video or an animated GIF, WebP, APNG or AVIF, evenly spaced.
        key_frames: of a video, among its key frames.
        max_pixels: larger pictures are not decoded, as in `data.load_image`.
        batch_size: pictures a forward pass; on a GPU a few hundred are faster.
        workers: threads that decode, of each process; by default the cores, at most eight.
        cluster: options of `model.cluster_answers`: address, actors, cpus, gpus.
        cache_dir: where converted models are kept; the user's cache folder by default.
        resume: take over the scores of a finished `out`; the table then has the files of this `source`.
        overwrite: replace a finished `out`, and a work file of another model.

    Raises:
        FileExistsError: `out` is there, and neither `resume` nor `overwrite` is asked for.
        FileNotFoundError: there is no such source or model file.
        ValueError: an option out of range, an empty source, a foreign model without `class_names`, other scores.
        OSError: the disk is full or read-only. What was scored stays in the work file.
    """
    counts = {"frames": frames, "batch_size": batch_size, "max_pixels": max_pixels}
    out = _checked(Path(out), where, runtime, resume=resume, overwrite=overwrite, **counts)
    if not isinstance(source, str | os.PathLike | pd.DataFrame):
        source = list(source)  # it may be gone through twice
    files, rows = open_source(source, data_dir=data_dir, filesystem=filesystem)
    files = replace(files, max_pixels=max_pixels, key_frames=key_frames)
    options = {"cache_dir": cache_dir, "class_names": class_names, "rescaling": rescaling, "progress": progress}
    ready = make_ready(model, runtime="tensorflow" if (cluster or {}).get("gpus") else runtime, **options)
    names = check_columns(ready.class_names)
    scored_by = f"{ready.identity}-{frames}{'k' * key_frames}"
    if precision == "auto" and not overwrite:
        precision = precision_before(out, scored_by) or precision
    again = partial(open_source, source, data_dir=data_dir, filesystem=files.filesystem)
    options = {"size": ready.size, "least": COMPARED if precision == "auto" else 0}  # with fewer it stays float32
    ready = ready.lowered(precision, lambda count: sample_pictures(files, again()[1], count=count, **options))
    scored_by += "" if ready.precision == "float32" else f"-{ready.precision}"
    about = {"precision": ready.precision, "agreement": ready.agreement or {}}
    options = {"files": files, "size": ready.size, "frames": frames, "batch_size": batch_size, "workers": workers}
    if where == "ray":
        options |= {"model": ready.classifier or ready.file(), "precision": ready.precision, "runtime": runtime}
        answering: Callable[..., Any] = partial(cluster_answers, **options, **(cluster or {}))
    else:
        answering = partial(stream_answers, forward=ready.forward(runtime), **options)
    try:
        with contextlib.closing(Store(out, names, scored_by, discard=overwrite)) as store:
            if resume and out.exists():
                store.add_finished()
            suspects = {path for _, path in islice(store.todo(), IN_FLIGHT * batch_size if where == "local" else 0)}
            store.add_files(rows)
            if suspects:
                store.add_answers(deadly_files(files, [file for file in store.todo() if file[1] in suspects]))
            found = answering(store.todo(), skip=store)
            _keep(store, found, progress, every=0 if suspects else COMMIT_SECONDS)
            store.write(about)
    except (sqlite3.Error, OSError) as error:
        raise _disk_error(error, out) from error
    work_file(out).unlink(missing_ok=True)
    table = read_scores(out)
    table.attrs |= about
    return table


def _checked(out: Path, where: str, runtime: str, *, resume: bool, overwrite: bool, **counts: int) -> Path:
    """`out`, if all of these can be."""
    for name, value, known in (("where", where, PLACES), ("runtime", runtime, RUNTIMES)):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}. Received: {value!r}.")
    if out.suffix not in FORMATS:
        raise ValueError(f"out must end in {', '.join(FORMATS)}. Received: {out.name!r}.")
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1. Received: {count}.")
    if resume and overwrite:
        raise ValueError("Expected one of resume and overwrite. Received both: keep the old scores, or replace them.")
    if out.exists() and not (resume or overwrite):
        ways = "Take over its scores with resume=True (--resume), or replace it with overwrite=True (--overwrite)."
        raise FileExistsError(f"{out} exists. {ways}")
    writable_folder(out.parent, "the folder of out")
    work = work_file(out)
    try:
        if work.exists():
            work.open("ab").close()
    except OSError as error:
        said = f"cannot be written ({error.strerror}). Move it away, or choose another out."
        raise PermissionError(f"{work}, where scores are kept till then, {said}") from error
    return out


def _keep(store: Store, found: Generator[list[Answer], None, None], progress: bool, *, every: float) -> None:
    """Answers into the work file as they come; what came before an interrupt is kept, too."""
    total, done = store.execute("SELECT COUNT(*), COALESCE(SUM(done), 0) FROM files").fetchone()
    bar = tqdm(total=total, initial=done, desc="scores", unit="img", disable=not progress)
    with bar, contextlib.closing(saving(found, store.commit, every=every)) as batches:
        for answers in batches:
            store.add_answers(answers)
            bar.update(len(answers))


def _disk_error(error: Exception, out: Path) -> OSError:
    work = work_file(out)
    kept = f" What was scored stays in {work}: the same call goes on from there." if work.exists() else ""
    if "locked" in str(error):
        return OSError(f"{work} is in use by another process that scores into {out}. Wait for it, or choose another.")
    if type(error) is sqlite3.DatabaseError:
        return OSError(f"{work} is damaged ({error}). Move it away: the same call scores anew.")
    reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    return OSError(f"{out} could not be written: {reason}. Free some room, or choose another out.{kept}")


def summary(table: pd.DataFrame) -> str:
    """One line: how many files, of what predicted class, and how many could not be scored, or may be fetched again."""
    counts = table.loc[table["problem"].eq(""), "predicted"].value_counts()
    parts = [f"{len(table):,} files", *(f"{count:,} {name}" for name, count in counts.items())]
    problems = table.loc[table["problem"].ne(""), "problem"].value_counts()
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in problems.items())
    parts += [f"{problems.sum():,} with a problem ({reasons})"] if len(problems) else []
    lost = problems.reindex(["truncated", "damaged"], fill_value=0).sum()  # what is unsupported is whole
    return ", ".join(parts) + (f". Fetch the {lost:,} truncated or damaged again if they matter." if lost else "")


def frame_scores(
    model: Path | str,
    source: Any,
    *,
    data_dir: Path | None = None,
    frames: int = 32,
    key_frames: bool = False,
    cache_dir: Path | None = None,
) -> pd.DataFrame:
    """One row a frame of each video of `source`: `clip` (its path), `time` (s), one probability a class, `problem`.

    For rules over frames, which `score` with its row a file has not; options are the same. Files that are no videos are
    left out; a video that cannot be read is one row with its problem.
    """
    files, rows = open_source(source, data_dir=data_dir)
    ready, tables = make_ready(model, runtime="auto", cache_dir=cache_dir, progress=False), []
    forward = ready.forward("auto")
    for path, problem, _ in rows:
        if (video := None if problem else files.open_video(path)) is None:
            continue
        try:
            with video:
                options = {"frames": frames, "key_frames": key_frames, "max_pixels": files.max_pixels}
                pixels, times, _ = load_video(video, size=ready.size, **options)
            found = pd.DataFrame(forward(pixels)[0], columns=ready.class_names).assign(time=times, problem="")
        except ImageProblem as error:
            found = pd.DataFrame({"time": [float("nan")], "problem": [error.reason]})
        tables.append(found.assign(clip=path))
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    return table.reindex(columns=["clip", "time", *ready.class_names, "problem"])
