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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nsfwlib import demo, files, labels, pipeline, runs

ACCURACIES = ("believing the labels", "audited", "planted truth")


def second_round(
    data_dir: Path, first_run: Path, *, out_dir: Path, run_dir: Path, progress: bool = True, **parameters: Any
) -> pd.DataFrame:
    """Apply the first round's decisions to a copy, run all notebooks on it → the table of `compare_rounds`.

    Args:
        data_dir: of the first round, left as it is.
        first_run: its run folder, notebooks 01–04 done.
        out_dir: for the copy, `<split>/<class>/…`; empty or not there.
        run_dir: for the second round.
        progress: show bars.
        parameters: of the notebooks, such as `cache_dir`.
    """
    journal = labels.journal_in_use(first_run, runs.journal_path(data_dir))
    apply_to_copy(data_dir, journal, first_run, out_dir=out_dir, progress=progress)
    pipeline.run_notebooks(
        pipeline.STEPS, run_dir, progress=progress, data_dir=Path(out_dir), journal_file=journal, **parameters
    )
    return compare_rounds({"before cleansing": first_run, "after cleansing": run_dir})


def apply_to_copy(
    data_dir: Path, journal: Path, first_run: Path, *, out_dir: Path, progress: bool = True
) -> pd.DataFrame:
    """Copy what a run can use into `out_dir`, under the labels in force → the plan as `labels.apply_decisions` has it.

    Of the embedded demo the truth is copied, too, so that the second round can be scored against it.
    """
    images = runs.read_table(first_run, "images.parquet", made_by="01_explore_data")
    done = labels.apply_decisions(
        data_dir, journal, dry_run=False, mode="copy", out_dir=out_dir, images=images, progress=progress
    )
    truth = demo.read_truth(data_dir)
    if truth is not None:
        _write_truth(truth, done, Path(out_dir).resolve())
    return done


def _write_truth(truth: pd.DataFrame, done: pd.DataFrame, out_dir: Path) -> None:
    """The truth of the copied files under their new names."""
    copied = done[done["target"].ne("")].set_index("path")["target"]
    new = {
        path: files.file_path(Path(), target).resolve().relative_to(out_dir).as_posix()
        for path, target in copied.items()
    }
    rows = truth[truth["path"].isin(new)].copy()
    rows["path"] = rows["path"].map(new)
    rows["given_label"] = [path.split("/")[-2] for path in rows["path"]]
    rows["duplicate_of"] = rows["duplicate_of"].map(new).fillna("")
    target = demo.truth_path(out_dir)
    partial = target.with_name(f"{target.name}.partial")
    rows.to_csv(partial, columns=list(demo.TRUTH_COLUMNS), index=False)
    partial.replace(target)


def compare_rounds(rounds: Mapping[str, Path]) -> pd.DataFrame:
    """Accuracy on `test` of each round: as its labels have it, as audited, and for the demo the true one.

    Returns:
        One row a round; columns `ACCURACIES` (shares), `low` and `high` of the audited one, `pictures` looked at and
        `test` pictures. Missing numbers are NaN.
    """
    records = []
    for name, run_dir in rounds.items():
        found = runs.read_json(Path(run_dir) / "metrics.json")
        audited = {row["name"]: row for row in found["audited"]}
        shares = {key: audited.get(key, {}).get("value", np.nan) for key in ACCURACIES}
        about = {key: audited.get("audited", {}).get(key, np.nan) for key in ("low", "high", "pictures")}
        records.append({"round": name} | shares | about | {"test": found["test_pictures"]})
    return pd.DataFrame(records).set_index("round")


def main(images: int, epochs: int, work: Path, cache: Path, seed: int):
    shutil.rmtree(work, ignore_errors=True)
    common = {"cache_dir": cache, "fine_tune_epochs": epochs, "seed": seed, "baseline_run": ""}
    common |= {"robustness_pictures": 0, "heat_map_pictures": 0}
    pipeline.run_notebooks(pipeline.STEPS, work / "first", data_dir=work / "demo", demo_images=images, **common)
    return second_round(work / "demo", work / "first", out_dir=work / "cleansed", run_dir=work / "second", **common)


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
