"""How do many machines share the work? Ray runs one model an actor, each given files as it gets done with others.

Actors, whole machines or their results may be lost on the way. What had no answer then is given out again in the end,
to the machines that are there by then; a lost actor is replaced where there is room.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import logging
import os
import socket
import tempfile
import warnings
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platformdirs import user_cache_path

from nsfwlib.model.runtime import Forward, open_converted
from nsfwlib.model.stream import EVERYTHING, Answer, Files, first_frame, mean_and_highest, stream_answers

if TYPE_CHECKING:
    import keras

BATCHES = 4  # that an actor is given at a time; it has two such parts, which is what its loss may cost
STALLED_SECONDS = 600  # without any answer: a model that loads for longer than that is no model
_TOKEN = (
    " If the cluster asks for a token, as those of Ray 2.59 and newer may, set RAY_AUTH_MODE=token, with its token in "
    "~/.ray/auth_token on each machine."
)
Work = list[tuple[int, str]]  # (position, path) of each file


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
        skip: sha256 of contents that need no answer. If there are any, files are hashed before they are decoded.
        address: of the cluster; by default `$RAY_ADDRESS`, or else the cores of this machine.
        actors: models at a time; by default as many as the cluster has room for.
        cpus: cores of each actor, for decoding and computing.
        gpus: of each actor.

    Raises:
        ImportError: Ray is not installed.
        RuntimeError: the cluster cannot be reached, has no room for one actor, or no machine gives an answer.
    """
    if files.filesystem is None:  # actors work in folders of their own
        files = replace(files, root=str(Path(files.root).absolute()))
    threads = max(1, int(cpus))
    how = {"is_onnx": isinstance(model, Path), "blocks": blocks, "runtime": runtime, "threads": threads}
    options = {"files": files, "size": size, "frames": frames, "batch_size": batch_size, "workers": workers or threads}
    options["reduce"] = first_frame if blocks else mean_and_highest
    with _connected(address) as ray:
        sent = ray.put(model.read_bytes() if isinstance(model, Path) else _saved(model))
        scorer = ray.remote(Scorer).options(num_cpus=cpus, num_gpus=gpus, scheduling_strategy="SPREAD")
        start, room = partial(scorer.remote, sent, how, options), partial(_room, ray, actors, cpus, gpus)
        yield from _share(ray, _Parts(work, BATCHES * batch_size, skip), start, room)


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
    _check_reachable(address or os.environ.get("RAY_ADDRESS", ""))
    try:
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises many kinds, plain Exception among them
        raise RuntimeError(f"Ray cannot be started, or the cluster not be reached: {error}.{_TOKEN}") from error
    try:
        yield ray
    finally:
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


def _room(ray: Any, most: int | None, num_cpus: float, num_gpus: float) -> int:
    """Actors that the machines of the cluster have room for at this moment, of at most so many."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    wants = {"CPU": num_cpus, "GPU": num_gpus}
    count = sum(int(min(node.get(kind, 0) / want for kind, want in wants.items() if want)) for node in alive)
    if not count:
        has = {kind: sum(node.get(kind, 0) for node in alive) for kind in wants}
        raise RuntimeError(f"The Ray cluster has no machine with room for an actor of {wants}. It has {has} in all.")
    return min(most or count, count)


class _Parts:
    """What is to be done next: (method of `Scorer`, files). If there is something to skip, files are hashed first."""

    def __init__(self, work: Iterable[tuple[int, str]], size: int, skip: Any) -> None:
        self.work, self.size, self.skip = iter(work), size, skip
        self.first = "hashes" if len(skip) else "answers"
        self.unknown: Work = []  # hashed, and to be decoded
        self.lost: list[tuple[int, str, Work]] = []  # in the order in which they were given

    def take(self) -> tuple[str, Work] | None:
        """The next part, if there is one at this moment.

        What was lost comes in the end, what was given last first: an actor's first part may be what ended it, and
        the cluster tells of the losses in any order.
        """
        if len(self.unknown) < self.size and (files := list(itertools.islice(self.work, self.size))):
            return self.first, files
        if self.unknown:
            files, self.unknown = self.unknown[: self.size], self.unknown[self.size :]
            return "answers", files
        return self.lost.pop()[1:] if self.lost else None

    def settle(self, method: str, files: Work, found: list[Answer]) -> list[Answer]:
        """The answers among what was found; hashed files of unknown content become work to come."""
        if method == "answers":
            return found
        known = [answer for answer in found if answer.problem or answer.sha256 in self.skip]
        settled = {answer.position for answer in known}
        self.unknown += [file for file in files if file[0] not in settled]
        return known


def _share(ray: Any, parts: _Parts, start: Callable[[], Any], room: Callable[[], int]) -> Iterator[list[Answer]]:
    """Share the parts among actors, two at a time to each, and give their answers as they come."""
    most = wanted = room()
    actors, free, lost = [], deque(), 0
    turns = itertools.count(1)
    running: dict[Any, tuple[int, Any, str, Work]] = {}  # no file to an actor that starts
    try:
        while True:
            while len(actors) < wanted:
                actors.append(start())
                running[actors[-1].hashes.remote([])] = 0, actors[-1], "hashes", []
            while free and (part := parts.take()):
                actor, (method, files) = free.popleft(), part
                running[getattr(actor, method).remote(files)] = next(turns), actor, method, files
            if free and not any(files for *_, files in running.values()):
                return
            ready, _ = ray.wait(list(running), timeout=STALLED_SECONDS)
            if not ready:
                raise RuntimeError(f"The Ray cluster gave no answer for {STALLED_SECONDS // 60} minutes.")
            turn, actor, method, files = running.pop(ready[0])
            try:
                found = ray.get(ready[0])
            except ray.exceptions.RayTaskError as error:  # another machine would fail, too
                cause = f"{type(error.cause).__name__}: {error.cause}"
                raise RuntimeError(f"A worker of the Ray cluster failed. {cause}") from error
            except ray.exceptions.RayError as error:
                if actor in actors:
                    actors.remove(actor)
                    ray.kill(actor)
                    free, lost = deque(other for other in free if other is not actor), lost + 1
                if lost > 2 * most:
                    last = str(error).strip().splitlines()[-1]
                    raise RuntimeError(f"The Ray cluster gave no answer, {lost} workers were lost: {last}") from error
                if files:
                    bisect.insort(parts.lost, (turn, method, files))
                    message = f"{len(files):,} files have no answer yet: a worker or its results were lost."
                    warnings.warn(f"{message} They are given out again.", stacklevel=2)
                wanted = room()
            else:
                if actor in actors:  # it may have answered before it was lost
                    free.extend([actor] if files else [actor, actor])
                if files:
                    lost = 0
                    yield parts.settle(method, files, found)
    finally:
        with contextlib.suppress(Exception):  # the cluster may be gone
            for actor in actors:
                ray.kill(actor)


def _saved(model: keras.Model) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        return path.read_bytes()


class Scorer:
    """An actor: the stream, with a model that is loaded when it is first needed.

    What fails in a method is an error of the call; what fails in the making of an actor would look like a lost one.
    """

    def __init__(self, model: bytes, how: dict[str, Any], options: dict[str, Any]) -> None:
        self.load: Callable[[], Forward] | None = partial(_forward, model, **how)
        self.options = options

    def hashes(self, work: Work) -> list[Answer]:
        """The sha256 of each file, without values."""
        return self._answers(work, EVERYTHING, lambda pixels: [])

    def answers(self, work: Work) -> list[Answer]:
        """What the model says of each file."""
        if self.load:
            self.forward, self.load = self.load(), None
        return self._answers(work, (), self.forward)

    def _answers(self, work: Work, skip: Container[str], forward: Forward) -> list[Answer]:
        return [a for batch in stream_answers(work, forward=forward, skip=skip, **self.options) for a in batch]


def _forward(model: bytes, *, is_onnx: bool, blocks: Sequence[str] | None, runtime: str, threads: int) -> Forward:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("model.onnx" if is_onnx else "model.keras")
        path.write_bytes(model)
        if is_onnx:
            return open_converted(path, threads=threads)
        from nsfwlib._tensorflow import keras, tf
        from nsfwlib.model.forward import forward_pass

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        for gpu in tf.config.list_physical_devices("GPU"):  # actors may share one
            tf.config.experimental.set_memory_growth(gpu, True)
        loaded = keras.models.load_model(path, compile=False, safe_mode=True)
        return forward_pass(loaded, blocks, runtime=runtime, cache_dir=user_cache_path("nsfwlib"), threads=threads)
