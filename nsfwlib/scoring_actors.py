"""What runs on the machines of a Ray cluster? An actor that holds the model, and tables that travel to it and back."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from platformdirs import user_cache_path

from nsfwlib import onnx_models, scoring_files, scoring_stream
from nsfwlib.scoring_files import Answer

REDUCE = {
    "scores": (scoring_stream.mean_and_highest, np.float32),
    "features": (scoring_stream.first_frame, np.float16),
}


class Scorer:
    """An actor. Called with a table of positions and paths, it answers with a table of answers.

    What fails in it is reported in that table: Ray would take an exception for a lost machine, and try again.
    """

    def __init__(self, task: str, **arguments: Any) -> None:
        self.reduce, self.dtype = REDUCE[task]
        self.failure = ""
        try:
            self.options = _options(**arguments)
        except Exception as error:
            self.failure = f"{type(error).__name__}: {error}"

    def __call__(self, table: pa.Table) -> pa.Table:
        """`position`, `path` → the columns of an answer, and `failure`."""
        if self.failure:
            return _failed(table, self.failure)
        work = zip(table["position"].to_pylist(), table["path"].to_pylist(), strict=True)
        try:
            found = [a for batch in scoring_stream.answers(work, reduce=self.reduce, **self.options) for a in batch]
        except Exception as error:
            return _failed(table, f"{type(error).__name__}: {error}")
        return to_table(found, self.dtype)


def _options(
    model: Any,
    is_onnx: bool,
    files: scoring_files.Files,
    blocks: Sequence[str] | None,
    runtime: str,
    threads: int,
    pictures: int | None,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """The model, loaded from the cluster's memory, as options of the stream."""
    import ray

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("model.onnx" if is_onnx else "model.keras")
        path.write_bytes(ray.get(model))
        if is_onnx:
            forward = onnx_models.open_file(path, threads=threads)
        else:
            forward = _keras_forward(path, blocks, runtime, threads, pictures)
    return {"files": files, "forward": scoring_stream.warm(forward, settings["size"]), **settings}


def _keras_forward(
    path: Path, blocks: Sequence[str] | None, runtime: str, threads: int, pictures: int | None
) -> onnx_models.Forward:
    from nsfwlib import engine

    engine.tf.config.threading.set_intra_op_parallelism_threads(threads)
    engine.tf.config.threading.set_inter_op_parallelism_threads(1)
    for gpu in engine.tf.config.list_physical_devices("GPU"):  # actors may share one
        engine.tf.config.experimental.set_memory_growth(gpu, True)
    loaded = engine.keras.models.load_model(path, compile=False, safe_mode=True)
    options = {"cache_dir": user_cache_path("nsfwlib"), "pictures": pictures, "threads": threads}
    return engine.forward_pass(loaded, blocks, engine=runtime, **options)


class Hasher:
    """An actor of a first pass: sha256 of each file, nothing decoded."""

    def __init__(self, files: scoring_files.Files) -> None:
        self.files = files

    def __call__(self, table: pa.Table) -> pa.Table:
        """As `Scorer`, without values."""
        found = []
        for position, path in zip(table["position"].to_pylist(), table["path"].to_pylist(), strict=True):
            picture = scoring_files.hashed(self.files, path)
            found.append(Answer(position, picture.sha256, 0, None, picture.problem, picture.detail))
        return to_table(found, np.float32)


_SCHEMA = pa.schema(
    {
        "position": pa.int64(),
        "sha256": pa.string(),
        "frames": pa.int32(),
        "values": pa.binary(),
        "problem": pa.string(),
        "detail": pa.string(),
        "failure": pa.string(),
    }
)


def to_table(found: list[Answer], dtype: type) -> pa.Table:
    """Answers as a table that travels well: their values as bytes of `dtype`, one after the other."""
    rows = [
        {**a._asdict(), "values": np.concatenate(a.values).astype(dtype).tobytes() if a.values else None, "failure": ""}
        for a in found
    ]
    return pa.Table.from_pylist(rows, _SCHEMA)


def _failed(table: pa.Table, failure: str) -> pa.Table:
    return pa.Table.from_pylist([{"position": p, "failure": failure} for p in table["position"].to_pylist()], _SCHEMA)


def from_table(table: pa.Table, parts: int | Sequence[int], dtype: type) -> list[Answer]:
    """The inverse of `to_table`; `parts` as in `np.split`: so many equal ones, or where they end.

    Raises:
        RuntimeError: the actor failed.
    """
    failure = table["failure"][0].as_py() if len(table) else ""
    if failure:
        raise RuntimeError(f"A worker of the Ray cluster failed. {failure}")
    return [
        Answer(
            row["position"],
            row["sha256"],
            row["frames"],
            None if row["values"] is None else np.split(np.frombuffer(row["values"], dtype), parts),
            row["problem"],
            row["detail"],
        )
        for row in table.to_pylist()
    ]
