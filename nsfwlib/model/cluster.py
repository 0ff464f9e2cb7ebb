"""How do many machines share the work? Ray Data spreads the files, one model an actor; the answers are the same.

Actors, whole machines or their results may be lost on the way. Ray restarts what it can; what has no answer at the
end of a round is given out again in the next, to the machines that are there then.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from platformdirs import user_cache_path

from nsfwlib.model.runtime import Forward, open_onnx_file
from nsfwlib.model.stream import Answer, Files, first_frame, hashed, mean_and_highest, stream_answers

if TYPE_CHECKING:
    import keras

LARGEST_BLOCK = 512  # files that an actor is given at a time, at most: what a lost machine may cost
STALLED_SECONDS = 600  # without any answer: a model that loads for longer than that is no model
_TOKEN = (
    " If the cluster asks for a token, as those of Ray 2.59 and newer may, set RAY_AUTH_MODE=token, with its token in "
    "~/.ray/auth_token on each machine."
)


def cluster_answers(
    work: Iterable[tuple[int, str]],
    *,
    files: Files,
    model: keras.Model | Path,
    size: int,
    blocks: Sequence[str] | None = None,
    runtime: str = "auto",
    frames: int = 1,
    batch_size: int = 16,
    workers: int | None = None,
    skip: Any = (),
    address: str | None = None,
    actors: int | None = None,
    cpus: float = 1,
    gpus: float = 0,
) -> Iterator[list[Answer]]:
    """`model.stream_answers` on the machines of a Ray cluster, in the order in which they are ready.

    Args:
        work: (position, path) of each file; every machine must reach it under that path.
        files: where they lie.
        model: a classifier, or the ONNX file of one, with which actors start without TensorFlow; sent to them.
        size: side of its pictures.
        blocks: pooled features of these blocks in place of probabilities.
        runtime: as in `model.forward_pass`.
        frames: at most so many frames of an animation.
        batch_size: pictures a forward pass.
        workers: threads that decode in each actor; as many as it has cores by default.
        skip: sha256 of contents that need no answer. If there are any, all files are hashed first.
        address: of the cluster; by default `$RAY_ADDRESS`, or else the cores of this machine.
        actors: models at a time; by default as many as the cluster has room for.
        cpus: cores of each actor, for decoding and computing.
        gpus: of each actor.

    Raises:
        ImportError: Ray is not installed.
        RuntimeError: the cluster cannot be reached, has no room for one actor, or no machine gives an answer.
    """
    task = "features" if blocks else "scores"
    parts = _parts(model, blocks)
    if files.filesystem is None:  # actors work in folders of their own
        files = Files(str(Path(files.root).absolute()))
    with _connected(address) as ray:
        if len(skip):
            known, work = _split_known(work, files, skip, ray, cpus)
            yield from known
        settings = {"size": size, "frames": frames, "batch_size": batch_size, "workers": workers or max(1, int(cpus))}
        arguments = {
            "model": ray.put(model.read_bytes() if isinstance(model, Path) else _saved(model)),
            "is_onnx": isinstance(model, Path),
            "files": files,
            "task": task,
            "blocks": blocks,
            "runtime": runtime,
            "threads": max(1, int(cpus)),
            "settings": settings,
        }
        room = {"actors": actors, "num_cpus": cpus, "num_gpus": gpus}
        for table in _rounds(ray, list(work), Scorer, arguments, least=batch_size, **room):
            yield from_table(table, parts, REDUCE[task][1])


@contextlib.contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    """Ray, connected: to the cluster that this process is connected to already, or for as long as this lasts."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    try:
        import ray
        import ray.data
    except ImportError:
        raise ImportError("where='ray' needs Ray. Run: pip install 'nsfwlib[ray]'") from None
    ours = not ray.is_initialized()
    if ours:
        _check_reachable(address or os.environ.get("RAY_ADDRESS", ""))
        try:
            ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # Ray raises many kinds, plain Exception among them
            raise RuntimeError(f"Ray cannot be started, or the cluster not be reached: {error}.{_TOKEN}") from error
    logger = logging.getLogger("ray.data")
    level = logger.level
    context = ray.data.DataContext.get_current()
    before = context.enable_progress_bars, context.max_errored_blocks, context.execution_no_progress_timeout_s
    logger.setLevel(logging.CRITICAL)  # a lost machine is a screen of tracebacks; we say it in a line
    context.enable_progress_bars, context.max_errored_blocks = False, -1
    context.execution_no_progress_timeout_s = STALLED_SECONDS
    try:
        yield ray
    finally:
        logger.setLevel(level)
        context.enable_progress_bars, context.max_errored_blocks, context.execution_no_progress_timeout_s = before
        if ours:
            ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ray itself tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host:  # none, "auto", "local"
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise RuntimeError(f"The Ray cluster {address} cannot be reached: {error}") from error


def _rounds(
    ray: Any,
    work: list[tuple[int, str]],
    function: type,
    arguments: dict[str, Any],
    *,
    least: int,
    actors: int | None,
    num_cpus: float,
    num_gpus: float,
) -> Iterator[pa.Table]:
    """Tables of answers, one a file, for as many rounds as some have none and each round brings some."""
    left, idle = dict(work), 0
    while left:
        count = min(actors or len(left), _room(ray, num_cpus, num_gpus))
        rows = int(np.clip(len(left) // (16 * count), least, LARGEST_BLOCK))
        before, error = len(left), None
        try:
            data = ray.data.from_arrow(_cut(left, rows)).map_batches(
                function,
                fn_constructor_kwargs=arguments,
                batch_size=None,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(
                    min_size=1, max_size=count, initial_size=count, max_tasks_in_flight_per_actor=2
                ),
                num_cpus=num_cpus,
                num_gpus=num_gpus or None,
                max_restarts=-1,
                max_task_retries=0,  # the next round does that: an actor without a machine would hold its files
            )
            for table in data.iter_batches(batch_size=None, batch_format="pyarrow"):
                new = [left.pop(position, None) is not None for position in table["position"].to_pylist()]
                if any(new):
                    yield table.filter(pa.array(new))
        except ray.exceptions.RayError as caught:
            error = caught
        idle = idle + 1 if len(left) == before else 0
        if idle == 2:
            raise RuntimeError(f"The Ray cluster gave no answer for {len(left):,} files: {_last_line(error)}")
        if left:
            warnings.warn(
                f"{len(left):,} files have no answer yet: a worker or its results were lost. They are given out again.",
                stacklevel=2,
            )


def _room(ray: Any, num_cpus: float, num_gpus: float) -> int:
    """Actors that the machines of the cluster have room for at this moment."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    wants = {"CPU": num_cpus, "GPU": num_gpus}
    count = sum(int(min(node.get(kind, 0) / want for kind, want in wants.items() if want)) for node in alive)
    if not count:
        has = {kind: sum(node.get(kind, 0) for node in alive) for kind in wants}
        raise RuntimeError(f"The Ray cluster has no machine with room for an actor of {wants}. It has {has} in all.")
    return count


def _cut(work: dict[int, str], rows: int) -> list[pa.Table]:
    positions, paths = np.fromiter(work, np.int64, len(work)), list(work.values())
    return [
        pa.table({"position": positions[start : start + rows], "path": pa.array(paths[start : start + rows])})
        for start in range(0, len(paths), rows)
    ]


def _split_known(
    work: Iterable[tuple[int, str]], files: Files, skip: Any, ray: Any, cpus: float
) -> tuple[Iterator[list[Answer]], list[tuple[int, str]]]:
    """Answers for the files whose content is scored, and the rest of the work."""
    paths, known, rest = dict(work), [], []
    room = {"actors": None, "num_cpus": min(1, cpus), "num_gpus": 0}
    for table in _rounds(ray, list(paths.items()), Hasher, {"files": files}, least=64, **room):
        for answer in from_table(table, 1, np.float32):
            if answer.problem or answer.sha256 in skip:
                known.append(answer)
            else:
                rest.append((answer.position, paths[answer.position]))
    return iter([known]), sorted(rest)


def _saved(model: keras.Model) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        return path.read_bytes()


def _parts(model: keras.Model | Path, blocks: Sequence[str] | None) -> int | list[int]:
    """Where the values of an answer are split: mean and highest probabilities in halves, features by their widths."""
    if not blocks:
        return 2
    from nsfwlib.model.classifier import feature_model

    widths = [output.shape[-1] for output in feature_model(model, list(blocks)).outputs]
    return np.cumsum(widths)[:-1].tolist()


def _last_line(error: BaseException | None) -> str:
    return "every worker was lost" if error is None else str(error).strip().splitlines()[-1]


REDUCE = {
    "scores": (mean_and_highest, np.float32),
    "features": (first_frame, np.float16),
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
            found = [a for batch in stream_answers(work, reduce=self.reduce, **self.options) for a in batch]
        except Exception as error:
            return _failed(table, f"{type(error).__name__}: {error}")
        return to_table(found, self.dtype)


def _options(
    model: Any,
    is_onnx: bool,
    files: Files,
    blocks: Sequence[str] | None,
    runtime: str,
    threads: int,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """The model, loaded from the cluster's memory, as options of the stream."""
    import ray

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("model.onnx" if is_onnx else "model.keras")
        path.write_bytes(ray.get(model))
        keras_forward = partial(_keras_forward, blocks=blocks, runtime=runtime)
        forward = (open_onnx_file if is_onnx else keras_forward)(path, threads=threads)
    return {"files": files, "forward": forward, **settings}


def _keras_forward(path: Path, blocks: Sequence[str] | None, runtime: str, threads: int) -> Forward:
    from nsfwlib._tensorflow import keras, tf
    from nsfwlib.model.forward import forward_pass

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    for gpu in tf.config.list_physical_devices("GPU"):  # actors may share one
        tf.config.experimental.set_memory_growth(gpu, True)
    loaded = keras.models.load_model(path, compile=False, safe_mode=True)
    options = {"cache_dir": user_cache_path("nsfwlib"), "threads": threads}
    return forward_pass(loaded, blocks, runtime=runtime, **options)


class Hasher:
    """An actor of a first pass: sha256 of each file, nothing decoded."""

    def __init__(self, files: Files) -> None:
        self.files = files

    def __call__(self, table: pa.Table) -> pa.Table:
        """As `Scorer`, without values."""
        found = []
        for position, path in zip(table["position"].to_pylist(), table["path"].to_pylist(), strict=True):
            picture = hashed(self.files, path)
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
