"""Scoring videos, beside a plain PyAV loop: seconds, videos a second, peak memory. Prints a table, asserts nothing.

    python benchmarks/video.py [--videos 12] [--seconds 20] [--rounds 3]

Both score eight evenly spaced frames of each video by the published InceptionV3 in the same runtime. The loop decodes
from the beginning to the end, keeps the frames it wants, and asks the network for one video after the other. Each
measurement is a process of its own, in turn; loading the model is not counted: of the kit, the time for all videos less
that for one.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

FRAMES = 8


def draw_videos(folder: Path, count: int, seconds: int) -> None:
    """Drifting smooth noise of 640 × 360 at 25 frames a second, a key frame every two seconds."""
    import av

    for i in range(count):
        rng = np.random.default_rng(i)
        scene = Image.fromarray(rng.integers(0, 256, (20, 60, 3), dtype=np.uint8)).resize((1920, 360))
        with av.open(str(folder / f"{i:03}.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt, stream.gop_size = 640, 360, "yuv420p", 50
            for step in range(25 * seconds):
                left = step * 1280 // (25 * seconds)
                frame = av.VideoFrame.from_image(scene.crop((left, 0, left + 640, 360)))
                container.mux(stream.encode(frame))
            container.mux(stream.encode())


def run_ours(folder: Path) -> float:
    from nsfwlib import score

    files, seconds = sorted(folder.iterdir()), []
    with tempfile.TemporaryDirectory() as out:
        for i, some in enumerate((files[:1], files[:1], files)):
            began = time.perf_counter()
            score.score("published", some, out=Path(out) / f"{i}.parquet", frames=FRAMES, progress=False)
            seconds.append(time.perf_counter() - began)
    return (seconds[2] - seconds[1]) * len(files) / (len(files) - 1)


def run_loop(folder: Path) -> float:
    import av

    from nsfwlib import model

    forward = model.make_ready("published", runtime="auto", progress=False).forward("auto")
    forward(np.zeros((FRAMES, 299, 299, 3), np.uint8))
    began = time.perf_counter()
    for path in sorted(folder.iterdir()):
        with av.open(str(path)) as container:
            video = container.streams.video[0]
            wanted, kept = set(((np.arange(FRAMES) + 0.5) * video.frames / FRAMES).astype(int)), []
            for number, frame in enumerate(container.decode(video)):
                if number in wanted:
                    kept.append(np.asarray(frame.to_image().resize((299, 299), Image.Resampling.BILINEAR)))
        forward(np.stack(kept))[0].mean(axis=0)
    return time.perf_counter() - began


CONTENDERS = {"this kit": run_ours, "PyAV loop": run_loop}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=12)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        seconds = CONTENDERS[options.work[0]](Path(options.work[1]))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "peak MB": peak}))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        draw_videos(Path(folder), options.videos, options.seconds)
        for _ in range(options.rounds):
            for name in CONTENDERS:
                command = [sys.executable, __file__, "--work", name, folder]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                rows.append({"": name} | json.loads(done.stdout.splitlines()[-1]))
    table = pd.DataFrame(rows).groupby("").median()
    table["videos/s"] = options.videos / table["seconds"]
    table["ratio"] = table["videos/s"] / table.loc["PyAV loop", "videos/s"]
    print(f"{options.videos} videos of {options.seconds} s, {FRAMES} frames each, medians of {options.rounds} rounds")
    print(table.round(2).to_string())


if __name__ == "__main__":
    main()
