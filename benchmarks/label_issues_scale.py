"""What does finding label issues cost as the data grows? Seconds and peak memory at each number of rows.

    python benchmarks/label_issues_scale.py [--rows 10000 100000 1000000] [--width 2048] [--work-dir build/bench]

Features are float16 on disk, memory-mapped as the kit keeps them: ten clouds that overlap, a tenth of the labels
wrong. Each size runs in a process of its own, so that the peak is its own. Prints a table, asserts nothing. A million
rows take 4 GB of disk.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from sklearn.metrics import average_precision_score

CLASSES, CHUNK = 10, 20_000


def make_features(path: Path, rows: int, width: int) -> np.memmap:
    """Clouds around ten centres in a subspace of 64 dimensions, plus noise; written chunk by chunk."""
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 0.55, (CLASSES, 64)).astype(np.float32)
    basis = (rng.normal(0, 1, (64, width)) / 8).astype(np.float32)
    features = np.memmap(path, np.float16, "w+", shape=(rows, width))
    for start in range(0, rows, CHUNK):
        n = min(CHUNK, rows - start)
        inner = centres[np.arange(start, start + n) % CLASSES] + rng.standard_normal((n, 64), np.float32)
        features[start : start + n] = inner @ basis + 0.3 * rng.standard_normal((n, width), np.float32)
    return features


def measure(rows: int, width: int, work_dir: Path) -> None:
    """One size: a line of the table."""
    from nsfwlib import labels

    path = work_dir / f"scale-{rows}.f16"
    features, rng = make_features(path, rows, width), np.random.default_rng(1)
    truth = np.arange(rows) % CLASSES
    wrong = rng.random(rows) < 0.1
    given = np.where(wrong, (truth + rng.integers(1, CLASSES, rows)) % CLASSES, truth)
    started, cpu = time.perf_counter(), time.process_time()
    issues = labels.find_label_issues(given, features=features)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    precision = average_precision_score(wrong, issues["score"])
    path.unlink()
    print(f"{rows:>9,} {seconds:>9,.1f} {cpu:>9,.1f} {peak:>9.2f} {precision:>7.3f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--work-dir", type=Path, default=Path("build/bench"))
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.work_dir.mkdir(parents=True, exist_ok=True)
    if options.one:
        measure(options.rows[0], options.width, options.work_dir)
    else:
        print("     rows   seconds   CPU s    peak GB      AP", flush=True)
        for rows in options.rows:
            command = [sys.executable, __file__, "--one", "--rows", str(rows), "--width", str(options.width)]
            subprocess.run([*command, "--work-dir", str(options.work_dir)], check=True)
