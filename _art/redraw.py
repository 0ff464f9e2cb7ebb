"""Draw the figures that the README shows from a finished demo run: python _art/redraw.py [RUN_DIR].

Each confusion matrix keeps its numbers beside its picture, so that incarnations can stand side by side.
"""

import shutil
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from nsfwlib import plots, runs

ART = Path(__file__).parent


def main(run_dir: Path) -> None:
    """Copy the run's matrix and its figures, redraw every matrix in this folder, and their accuracies in a row."""
    shutil.copy(run_dir / "figures" / "confusion.json", ART / f"{run_dir.name}.json")
    for name in ("confusion_cleansing", "noise", "map", "suspicion", "detectors"):
        shutil.copy(run_dir / "figures" / f"{name}.png", ART / f"{name}.png")
    incarnations = read_incarnations(sorted(ART.glob("*.json")))
    for row in incarnations.itertuples():
        title = f"{row.name}: accuracy {row.accuracy:.1%}" + (f" of {row.images:,} images" if row.images else "")
        ax = plots.plot_confusion(row.matrix, class_names=row.class_names, title=title)
        stem = "".join(c if c.isalnum() else "_" for c in row.name).strip("_")
        ax.figure.savefig(ART / f"confusion_{stem}.png", dpi=110, bbox_inches="tight")
    ax = plot_incarnations(incarnations)
    ax.figure.savefig(ART / "incarnations.png", dpi=110, bbox_inches="tight")


def read_incarnations(paths: list[Path]) -> pd.DataFrame:
    """Saved confusion matrices, oldest first: `name`, `date`, `data`, `accuracy`, `low`, `high`, `images`, `matrix`.

    `matrix` holds counts, or shares of rows for published figures, whose `images` is 0.
    """
    rows = []
    for path in paths:
        text = runs.read_json(path)
        for record in text.get("matrices", [text]):
            low, high = record.get("interval") or (np.nan, np.nan)
            matrix = np.array(record.get("counts") or record["shares"])
            filled = {"date": "", "data": "", "images": 0, "class_names": text.get("class_names")} | record
            rows.append(filled | {"low": low, "high": high, "matrix": matrix})
    columns = ["name", "date", "data", "accuracy", "low", "high", "images", "class_names", "matrix"]
    return pd.DataFrame(rows, columns=columns).sort_values("date", kind="stable", ignore_index=True)


def plot_incarnations(incarnations: pd.DataFrame) -> Axes:
    """Accuracy of `read_incarnations` one after the other; published ones, images unknown, are hollow."""
    table = incarnations.assign(value=incarnations["accuracy"])
    table["name"] = (table["name"] + "\n" + table["date"]).str.strip()
    ax = plots.plot_intervals(table, xlabel="share of images right", title="Accuracy over incarnations")
    old = np.flatnonzero(table["images"].eq(0))
    look = {"color": "#15466e", "mfc": "white", "ms": 8}
    ax.plot(table["value"].iloc[old], old, "s", label="published, other test images", **look)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
    return ax


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo"))
