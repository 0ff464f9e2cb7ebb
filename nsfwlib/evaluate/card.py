"""What should travel with a model? A card: data, labels, scores with intervals, thresholds, slices, limits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from nsfwlib.files import write_whole

    with write_whole(path) as draft:
        draft.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return Path(path)
_LIMITS = """It sorts images for people who moderate. It is not meant to decide about people, to be the only filter in
front of children, or to judge what is legal. Thresholds hold at the prevalence they were chosen for. Scores hold for
images like those of the test set; the slices below say where they do not. Labels follow the class guidelines of whoever
gave them, and the line between classes is theirs."""


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
) -> Path:
    """Write `MODEL_CARD.md` from the tables of a run; nothing in it is typed by hand.

    Args:
        path: of the file, replaced whole.
        name: of the model.
        run: the content of `run.json` (`settings`, `class_names`, `versions`, `finished`).
        counts: images by class (rows) and split (columns).
        cleansing: the content of `cleansing.json`.
        scores: as from `evaluate.scores`.
        points: as from `evaluate.operating_points`.
        slices: as from `evaluate.accuracy_by_slice`.
        audit: what was done about the test labels, as from `evaluate.audit_progress`; empty: nothing.
    """
    settings = run["settings"]
    facts = pd.Series({k: v for k, v in settings.items() if not isinstance(v, dict | list)}, name="value")
    parts = [
        _FRONT.format(name=json.dumps(name, ensure_ascii=False)),  # a JSON string is a YAML string
        f"# {name}",
        f"InceptionV3 with a head for {', '.join(run['class_names'])}. Raw RGB 0–255 in, probabilities out; rescaling, "
        f"temperature and class names are inside. Trained until {run['finished']}.",
        "## Intended use and limits", _LIMITS,
        "## Data", f"Fingerprint `{settings['data']}`: it changes with any image, label or split.",
        _table(counts, index=True),
        "## Labels", f"Label errors found in review: {cleansing['found']}. Labels changed: {cleansing['changed']}. "
        + ("The reviewer was simulated from the planted truth of the demo. " if cleansing["simulated"] else "")
        + (f"Test labels: {audit}" if audit else "The test labels were not reviewed here."),
        "## Scores on test, with 95 % intervals", _table(scores.drop(columns="note", errors="ignore")),
        "## Operating points, chosen on validation, reported on test", _table(points),
        "## Worst slices", _table(slices.head(10)),
        "## Training", _table(facts.to_frame(), index=True),
        "## Versions", ", ".join(f"{package} {version}" for package, version in run["versions"].items()),
    ]  # fmt: skip
    with write_whole(path) as draft:
        draft.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return Path(path)


def _table(frame: pd.DataFrame, *, index: bool = False) -> str:
    """A Markdown table; numbers to three digits, nothing for NaN."""
    if frame.empty:
        return "None."
    frame = frame.reset_index() if index else frame
    lines = ["| " + " | ".join(map(str, frame.columns)) + " |", "|" + "---|" * frame.shape[1]]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in frame.itertuples(index=False)]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:,.3g}"
    return "" if value is None else str(value).replace("|", "\\|").replace("\n", " ")
