"""How do many machines share the work? Ray gives files, those of lost machines too, to processes with the model."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import socket
import tempfile
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platformdirs import user_cache_path

from nsfwlib.model.runtime import lowered_path, open_converted
from nsfwlib.model.stream import Answer, Files, Forward, first_frame, mean_and_highest, stream_answers

if TYPE_CHECKING:
    import keras

BATCHES = 4  # that a process is given at a time, which is what its loss may cost
RETRIES = 2  # of files whose process was lost, perhaps by one of them
STALLED_SECONDS = 600  # without any answer: a model that loads for longer than that is no model
Work = list[tuple[int, str]]  # (position, path) of each file


def cluster_answers(
    work: Iterable[tuple[int, str]],
    *,
    files: Files,
    model: keras.Model | Path,
    blocks: Sequence[str] | None = None,
    runtime: str = "auto",
    precision: str = "float32",
    batch_size: int = 16,
    workers: int | None = None,
    skip: Iterable[str] = (),
    address: str | None = None,
    actors: int | None = None,
    cpus: float = 1,
    gpus: float = 0,
    **options: Any,
) -> Iterator[list[Answer]]:
    """`model.stream_answers`, with its options, on the machines of a Ray cluster, in the order in which they are ready.

    A RuntimeError where the cluster cannot be reached, has no room for one process, or no machine gives an answer; an
    ImportError where Ray is not installed.

    Args:
        work: (position, path) of each file; every machine must reach it under that path.
        model: a classifier, or the converted file of one, which needs no TensorFlow; sent to each process once.
        blocks: pooled features of these blocks in place of probabilities.
        runtime: as in `model.forward_pass`.
        precision: of a converted file, which must be there, see `model.choose_precision`.
        workers: threads that decode in each process; as many as it has cores by default.
        skip: sha256 of contents that need no answer, as of this moment.
        address: of the cluster; by default `$RAY_ADDRESS`, or else the cores of this machine.
        actors: processes at a time, by default as many as there is room for, each with `cpus` cores and `gpus`.
        options: `size` and `frames`.
    """
    if files.filesystem is None:  # processes work in folders of their own
        files = replace(files, root=str(Path(files.root).absolute()))
    threads = max(1, int(cpus))
    how = (tuple(blocks or ()), runtime, precision, threads)
    options |= {"files": files, "batch_size": batch_size, "workers": workers or threads}
    options |= {"reduce": first_frame if blocks else mean_and_highest}
    with _connected(address) as ray:
        sent = ray.put(_packed(model, precision))
        # with max_calls=0 a process is used again, and its model with it; on a GPU each would end with its first part
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES, max_calls=0, scheduling_strategy="SPREAD")
        start = partial(task(_score).remote, [sent], how, ray.put(frozenset(skip)), options)
        work = iter(work)
        parts = iter(lambda: list(itertools.islice(work, BATCHES * batch_size)), [])
        yield from _share(ray, parts, start, partial(_room, ray, actors, cpus, gpus))


@contextlib.contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    """Ray, connected: to the cluster that this process is connected to already, or for as long as this lasts."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    try:
        import ray
    except ImportError:
        raise ImportError("where='ray' needs Ray. Run: pip install 'nsfwlib[ray]'") from None
    if ray.is_initialized():
        yield ray
        return
    place = (address or os.environ.get("RAY_ADDRESS", "")).removeprefix("ray://")
    host, _, port = place.rpartition(":")
    try:
        if host:  # it is not "auto" or "local"; Ray itself tries for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises many kinds, plain Exception among them
        raise RuntimeError(
            f"Ray cannot be started, or {place or 'its cluster'} cannot be reached: {error}. If the cluster asks for a "
            "token, as those of Ray 2.59 and newer may, set RAY_AUTH_MODE=token, and put it into ~/.ray/auth_token "
            "on each machine."
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _room(ray: Any, most: int | None, num_cpus: float, num_gpus: float) -> int:
    """Processes that the machines of the cluster have room for at this moment, of at most so many."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    wants = {"CPU": num_cpus, "GPU": num_gpus}
    count = sum(int(min(node.get(kind, 0) / want for kind, want in wants.items() if want)) for node in alive)
    if not count:
        has = {kind: sum(node.get(kind, 0) for node in alive) for kind in wants}
        raise RuntimeError(f"The Ray cluster has no machine with room for a worker of {wants}. It has {has} in all.")
    return min(most or count, count)


def _share(
    ray: Any, parts: Iterator[Work], start: Callable[[Work], Any], room: Callable[[], int]
) -> Iterator[list[Answer]]:
    """Share the parts among the processes that there is room for, and give their answers as they come."""
    running: dict[Any, Work] = {}
    lost: list[tuple[Work, Exception]] = []
    try:
        while running := running | {start(p): p for p in itertools.islice(parts, max(room() - len(running), 0))}:
            ready, _ = ray.wait(list(running), timeout=STALLED_SECONDS)
            if not ready:
                raise RuntimeError(f"The Ray cluster gave no answer for {STALLED_SECONDS // 60} minutes.")
            files = running.pop(ready[0])
            try:
                yield ray.get(ready[0])
            except ray.exceptions.RayTaskError as error:  # another machine would fail, too
                cause = f"{type(error.cause).__name__}: {error.cause}"
                raise RuntimeError(f"A worker of the Ray cluster failed. {cause}") from error
            except ray.exceptions.RayError as error:
                lost.append((files, error))
    finally:
        with contextlib.suppress(Exception):  # the cluster may be gone
            for task in running:
                ray.cancel(task, force=True)
    if lost:
        files, error = lost[0]
        last = str(error).strip().splitlines()[-1]
        raise RuntimeError(
            f"{sum(len(some) for some, _ in lost):,} files have no answer: each of {1 + RETRIES} workers that were "
            f"given them was lost, {files[0][1]} and its neighbours first: {last} All others have one."
        ) from error


def _packed(model: keras.Model | Path, precision: str) -> dict[str, bytes]:
    """The files of a model by name: converted ones, or what Keras saves."""
    if isinstance(model, Path):
        paths = [lowered_path(model, precision).with_suffix(ending) for ending in (".xml", ".bin")]
        return {path.name.replace(model.stem, "model"): path.read_bytes() for path in paths}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        return {path.name: path.read_bytes()}


def _score(
    sent: list[Any], how: tuple[Any, ...], skip: Container[str], options: dict[str, Any], work: Work
) -> list[Answer]:
    """A task: what the model says of each file. The model comes in a list, so that Ray does not unpack it each time."""
    batches = stream_answers(work, forward=_forward(sent[0], *how), skip=skip, **options)
    return [answer for batch in batches for answer in batch]


@lru_cache(maxsize=1)  # a process may be used by several calls, one after the other
def _forward(sent: Any, blocks: tuple[str, ...], runtime: str, precision: str, threads: int) -> Forward:
    import ray

    with tempfile.TemporaryDirectory() as folder:
        for name, content in ray.get(sent).items():
            (Path(folder) / name).write_bytes(content)
        saved = Path(folder) / "model.keras"
        if not saved.exists():
            return open_converted(saved.with_suffix(".xml"), precision=precision, threads=threads)
        from nsfwlib._tensorflow import keras, tf
        from nsfwlib.model.forward import forward_pass

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        for gpu in tf.config.list_physical_devices("GPU"):  # processes may share one
            tf.config.experimental.set_memory_growth(gpu, True)
        loaded = keras.models.load_model(saved, compile=False, safe_mode=True)
        options = {"runtime": runtime, "cache_dir": user_cache_path("nsfwlib"), "threads": threads}
        return forward_pass(loaded, blocks or None, **options)
