"""What does a model say of each frame of a video? For rules over frames, which `score` with its row a file has not."""

from pathlib import Path
from typing import Any

import pandas as pd

from nsfwlib.data import ImageProblem, load_video
from nsfwlib.model import make_ready
from nsfwlib.score.source import open_source


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

    Files that are no videos are left out; a video that cannot be read is one row with its problem.

    Args:
        model: as in `score`, and so are `source`, `data_dir` and `cache_dir`.
        frames: at most so many of each video, evenly spaced.
        key_frames: among its key frames, as in `data.load_video`.
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
