"""What should travel with a model? A card: data, labels, scores with intervals, thresholds, slices, limits."""

import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nsfwlib.files import write_whole

_FRONT = """---
library_name: keras
model_name: {name}
pipeline_tag: image-classification
tags:
- image-classification
- content-moderation
---"""
_LIMITS = """It sorts images for people who moderate. It is not meant to decide about people, to be the only filter in
front of children, or to judge what is legal. Scores and thresholds hold for images like those of the test set; the
slices below say where they do not. Recall and false-positive rate stay where unsafe uploads are rarer, provided that
the safe and the unsafe ones are alike; precision and workload change, and stand at the prevalence named. Labels follow
the class guidelines of whoever gave them, and the line between classes is theirs."""

_WORTH = {
    "test": "Measured on test, which informed no choice.",
    "val": "There is no test set, so this is measured on val, which chose model, temperature and thresholds: numbers "
    "flatter, and how good the model is on other pictures cannot be said. Hold some out in a folder `test`, or leave "
    "the split to notebook 01.",
}


def held_out(table: pd.DataFrame) -> tuple[str, str]:
    """The split to measure on, and what that is worth, in a sentence: "val" where no row's `split` is "test"."""
    split = "test" if table["split"].eq("test").any() else "val"
    return split, _WORTH[split]


def write_card(
    path: Path,
    *,
    name: str,
    run: Mapping[str, Any],
    counts: pd.DataFrame,
    cleansing: Mapping[str, Any],
    scores: pd.DataFrame,
    points: pd.DataFrame,
    slices: pd.DataFrame,
    audit: str = "",
    errors: Mapping[str, Any] | None = None,
    split: str = "test",
) -> Path:
    """Write the `MODEL_CARD.md` of a model from the tables of a run, replaced whole; nothing in it is typed by hand.

    Args, with `scores`, and `slices` of `accuracy_by_slice`:
        run, cleansing: those of `run.json` (`settings`, `class_names`, `versions`, `finished`), `cleansing.json`.
        counts: images by class (rows) and split (columns).
        points: as from `operating_points`; a column may say which labels are believed.
        audit: what was done about the labels of `split`, as from `audit_progress`; empty: nothing.
        errors: share of wrong labels in `split`, its `value`, `low` and `high`, as that audit has it.
        split: what all was measured on, as from `held_out`.
    """
    facts = pd.Series({k: v for k, v in run["settings"].items() if not isinstance(v, dict | list)}, name="value")
    parts = [
        _FRONT.format(name=json.dumps(name, ensure_ascii=False)),  # a JSON string is a YAML string
        f"# {_text(name)}",
        f"InceptionV3 with a head for {', '.join(map(_text, run['class_names']))}. Raw RGB 0–255 in, probabilities "
        f"out; rescaling, temperature and class names are inside. Trained until {run['finished']}.",
        "## Intended use and limits", _LIMITS,
        "## Data", f"Fingerprint `{facts['data']}`: it changes with any image, label or split.",
        _table(counts.reset_index()),
        "## Labels",
        f"Label errors found in review: {_text(cleansing['found'])}. Labels changed: {cleansing['changed']}. "
        + ("The reviewer was simulated from the planted truth of the demo. " if cleansing["simulated"] else "")
        + (f"The {split} labels: {_text(audit)}" if audit else f"The {split} labels were not reviewed here.")
        + ("" if errors is None else " Of them {value:.1%} are wrong ({low:.1%} to {high:.1%}), ".format(**errors)
           + "if whoever audited them was right and the pictures left unanswered are like the others."),
        f"## Scores on {split}, with 95 % intervals", _WORTH[split],
        _table(with_intervals(scores.drop(columns="note", errors="ignore"))),
        f"## Operating points, chosen on validation, reported on {split}",
        "Each keeps its wish with 95 % confidence, unless the note says that this cannot be promised: then the "
        "threshold is the one that just grants it on validation, elsewhere a coin toss.",
        _table(with_intervals(points)),
        "## Worst slices", _table(with_intervals(slices.head(10))),
        "## Training", _table(facts.reset_index()),
        "## Versions", ", ".join(f"{package} {version}" for package, version in run["versions"].items()),
    ]  # fmt: skip
    with write_whole(path) as draft:
        draft.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return Path(path)


def with_intervals(table: pd.DataFrame) -> pd.DataFrame:
    """A table for people: each number with its interval as one text, such as "0.912 (0.88–0.94)"."""
    shown, only = table.copy(), "accuracy" if "accuracy" in table else "value"
    for name in table:
        ends = ["low", "high"] if name == only else [f"{name}_low", f"{name}_high"]
        if set(ends) <= set(table):
            rows = table[[name, *ends]].astype(float).itertuples(index=False)
            shown[name] = ["" if pd.isna(row[0]) else "{} ({}–{})".format(*map(_cell, row)) for row in rows]
            shown = shown.drop(columns=ends)
    return shown


def _table(frame: pd.DataFrame) -> str:
    """A Markdown table; numbers to three digits, nothing for NaN."""
    if frame.empty:
        return "None."
    lines = ["| " + " | ".join(map(_text, frame.columns)) + " |", "|" + "---|" * frame.shape[1]]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in frame.itertuples(index=False)]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:,.0f}" if 1000 <= abs(value) < np.inf else f"{value:.3g}"
    return "" if value is None else _text(value)


def _text(value: Any) -> str:
    """What a person or a file name wrote, as text on one line that is neither HTML nor Markdown."""
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", html.escape(" ".join(str(value).split()), quote=False))
