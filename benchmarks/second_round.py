"""Does cleansing help, and do we measure that honestly? The embedded demo through two rounds, in one small table.

    python benchmarks/second_round.py [--images 150] [--epochs 2] [--work build/second_round] [--cache cache]

Round one: notebooks 01–04 on the demo, the simulated reviewer answers review and audit. Its decisions are applied to a
copy of the folders; round two: the same notebooks on the copy, in a second run folder. Prints each round's accuracy on
test as its labels have it, as audited, and against the planted truth. Asserts nothing.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

from nsfwlib import pipeline, rounds


def main(images: int, epochs: int, work: Path, cache: Path, seed: int):
    shutil.rmtree(work, ignore_errors=True)
    common = {"cache_dir": cache, "fine_tune_epochs": epochs, "seed": seed, "baseline_run": ""}
    common |= {"robustness_pictures": 0, "heat_map_pictures": 0}
    pipeline.run_notebooks(pipeline.STEPS, work / "first", data_dir=work / "demo", demo_images=images, **common)
    return rounds.second_round(
        work / "demo", work / "first", out_dir=work / "cleansed", run_dir=work / "second", **common
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=150, help="pictures a class")
    parser.add_argument("--epochs", type=int, default=2, help="of fine-tuning; 0 trains the head alone")
    parser.add_argument("--work", type=Path, default=Path("build/second_round"), help="made anew")
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.perf_counter()
    table = main(options.images, options.epochs, options.work, options.cache, options.seed)
    print(table.round(3).to_string())
    print(f"{time.perf_counter() - start:.0f} s")
