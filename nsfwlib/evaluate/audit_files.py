"""Which pictures does an audit show, and what has it found so far? The sample of `audit`, frozen as files of the run.

An audit is drawn once per model, before anyone looks: `audit_<split>.parquet` has one row a picture, and
`audit_<split>.json` says whose predictions it is about. It can grow, but never be drawn again for other predictions:
whoever may redraw until the number is pleasant has measured nothing. What reviewers decide goes to the journal.
"""

import hashlib
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nsfwlib import runs
from nsfwlib.data import SPLITS
from nsfwlib.evaluate.audit import STRATA, audit_plan, audited_accuracy, audited_label_errors, draw_audit, enlarge_audit
from nsfwlib.evaluate.intervals import share_interval
from nsfwlib.labels import decisions_in_force

AUDIT_COLUMNS = ("path", "sha256", "group", "split", "label", "predicted", "stratum", "order", "picked")


def freeze_audit(
    run_dir: Path,
    split: str,
    rows: pd.DataFrame,
    *,
    about: str,
    agreements: int = 100,
    disagreements: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Draw the audit of a split and keep it in the run; if it is there already, return that one, enlarged if need be.

    One that was drawn for something else is replaced, with a warning, only if nobody has looked at any of its pictures.

    Args:
        run_dir: of the model.
        split: "test", "val" or "train".
        rows: `path`, `sha256`, `group`, `split`, `label` and `predicted` of the pictures to draw from, `suspicion`
            (higher is more suspect) and whether they were `reviewed` before.
        about: what is audited, such as a fingerprint of the predictions: another one needs another run.
        agreements: how many rows on which label and prediction agree; a smaller number never shrinks an audit.
        disagreements: how many of the others; None takes all, as accuracy needs it.
        seed: of the draw.

    Returns:
        One row a picture, columns `AUDIT_COLUMNS`.

    Raises:
        ValueError: an audit of something else is frozen here, and somebody has begun to answer it.
    """
    audit, record = load_audit(run_dir, split), _files(run_dir, split)[1]
    if audit is not None and runs.read_json(record)["about"] != about:
        begun = audit.loc[audit["picked"], "sha256"].isin(rows.loc[rows["reviewed"], "sha256"])
        audit = load_audit(run_dir, split, about=about) if begun.any() else None
        warnings.warn(f"The audit of {split} was of an older model, and nobody had begun it: drawn anew.", stacklevel=2)
    if audit is None:
        drawn = draw_audit(
            rows["label"], rows["predicted"], rows["suspicion"], reviewed=rows["reviewed"],
            agreements=agreements, disagreements=disagreements, seed=_own_seed(seed, split, about),
        )  # fmt: skip
        audit = pd.concat([rows.drop(columns=["suspicion", "reviewed"]), drawn], axis=1)[list(AUDIT_COLUMNS)]
        _write(audit, run_dir, split, {"about": about, "seed": seed, "drawn": _now(), "disagreements": disagreements})
    larger = enlarge_audit(audit, agreements=agreements, disagreements=disagreements)
    if larger["picked"].sum() > audit["picked"].sum():
        _write(larger, run_dir, split, runs.read_json(record) | {"enlarged": _now()})
    return larger


def load_audit(run_dir: Path, split: str, *, about: str | None = None) -> pd.DataFrame | None:
    """The frozen audit of a split; None where none was drawn.

    Raises:
        ValueError: it is about something else than `about`, such as an older model's predictions.
    """
    table, file = _files(run_dir, split)
    if not table.exists() or not file.exists():
        return None
    frozen = runs.read_json(file)["about"]
    if about is not None and about != frozen:
        raise ValueError(
            f"The audit of {split} in {run_dir} was drawn for {frozen}. Received: {about}. An audit belongs to one "
            f"model: give the new one a new run_dir, or give this audit up for good by deleting {table.name} and "
            f"{file.name}."
        )
    return pd.read_parquet(table)


def audits_of_run(run_dir: Path, split: str) -> pd.DataFrame | None:
    """The frozen audit of a run's predictions on `split`; None where none was drawn.

    Raises:
        ValueError: it was drawn for other predictions than those of the run now.
    """
    return load_audit(run_dir, split, about=_predictions(run_dir, split)[1])


def audit_queue(audit: pd.DataFrame) -> pd.DataFrame:
    """The picked rows as the queue of a `review.ReviewSession` in mode "audit", strata mixed evenly.

    Within each stratum the order is the random one of the draw, so that whoever stops early has seen a random sample
    of all of them. The stratum does not go along; the session shows neither label nor prediction, and knows them only
    so that whoever hides a class is spared its pictures.
    """
    picked = audit[audit["picked"]]
    place = (picked["order"] + 0.5) / picked.groupby("stratum")["order"].transform("max").add(1)
    rows = picked.assign(place=place).sort_values(["place", "sha256"])
    rows = rows.assign(given=rows["label"], suggested=rows["predicted"], score=np.nan)
    return rows[["path", "sha256", "given", "suggested", "score", "group", "split"]].reset_index(drop=True)


def audit_verdicts(journal: Path, *, class_names: Sequence[str]) -> pd.Series:
    """What people said, by sha256: a class, or "drop". Unsure and escalated pictures have no verdict."""
    decided = decisions_in_force(journal).set_index("sha256")
    verdict = decided["decision"].mask(decided["decision"].eq("keep"), decided["given_label"])
    return verdict[verdict.isin([*class_names, "drop"])]


def audit_truth(audit: pd.DataFrame, journal: Path, *, class_names: Sequence[str]) -> pd.Series:
    """The verdict on each row of the audit, None where there is none; "drop" where a picture belongs to no class.

    A picture to drop has no right answer: it counts against the model's accuracy, and its label as an error.
    """
    found = audit["sha256"].map(audit_verdicts(journal, class_names=class_names)).astype(object)
    return found.where(found.notna(), None)


def audit_accuracies(
    audit: pd.DataFrame,
    verdict: pd.Series,
    *,
    labels: Sequence[str] | None = None,
    planted: Sequence[str] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Accuracy as the labels have it, as the audit has it, and where it is known the true one: for `plot_intervals`.

    Args:
        audit: as from `load`.
        verdict: as from `truth`.
        labels: (N,) given labels; those at the time of the draw by default.
        planted: (N,) true class of every row, known for the demo alone; counted, so without an interval.
        seed: of the interval's draws.

    Returns:
        `name`, `value`, `low`, `high`, `pictures` (looked at), `note`.
    """
    predicted = audit["predicted"].to_numpy(object)
    given = np.asarray(audit["label"] if labels is None else labels, dtype=object)
    believed = share_interval(given == predicted, audit["group"])
    rows = [{"name": "believing the labels", "value": believed.value, "low": believed.low, "high": believed.high}]
    found = audited_accuracy(verdict, predicted, audit, groups=audit["group"], seed=seed)
    rows.append({"name": "audited", "pictures": found["audited"]} | found)
    if planted is not None:
        value = float((np.asarray(planted, dtype=object) == predicted).mean())
        rows.append({"name": "planted truth", "value": value, "low": value, "high": value})
    table = pd.DataFrame(rows, columns=["name", "value", "low", "high", "pictures", "note"])
    return table.fillna({"note": "", "pictures": 0}).astype({"pictures": int})


def audit_progress(audit: pd.DataFrame | None, verdict: pd.Series | None) -> str:
    """How far an audit is, in a sentence; what to do where there is none."""
    if audit is None or verdict is None:
        return "No audit has been drawn: notebook 03 does it after 02, so that accuracy need not believe the labels."
    due, seen = int(audit["picked"].sum()), int((audit["picked"] & verdict.notna()).sum())
    before = int(audit["stratum"].eq(STRATA[0]).sum())
    known = f", and {before:,} were reviewed before it was drawn" if before else ""
    begin = "" if seen or before else " No audit has been done yet: notebook 03 has it in its grid."
    return f"{seen:,} of {due:,} pictures of the audit have a verdict{known}; it stands for {len(audit):,}.{begin}"


def draw_audits(
    run_dir: Path,
    sizes: Mapping[str, int],
    table: pd.DataFrame,
    current: pd.Series,
    pred_probs: np.ndarray,
    journal: Path,
    *,
    class_names: Sequence[str],
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """The frozen audits of these splits, drawn if they are not there; without `predictions.parquet` only `train`.

    Args:
        run_dir: of the model.
        sizes: split → how many pictures to look at. For "test" and "val" besides all on which label and model
            disagree; for "train" in all, a third of them from those on which the judge disagrees.
        table: the images table; usable rows.
        current: labels in force, in its order.
        pred_probs: (N, K) of the judge, in its order.
        journal: the decisions journal, as it is before anyone looks at the sample.
        class_names: the K classes.
        seed: of the draws.

    Raises:
        ValueError: an audit of other predictions is in the run, or there is no such split.
    """
    unknown = sorted(set(sizes) - set(SPLITS))
    if unknown:
        raise ValueError(f"Audits are of {', '.join(SPLITS)}. Received: {', '.join(unknown)}.")
    frozen, verdicts = {}, audit_verdicts(journal, class_names=class_names)
    for split, n in sizes.items():
        rows, options = table["split"].eq(split), {"agreements": n}
        predicted, about = _predictions(run_dir, split)
        if split == "train":
            options = {"agreements": n - n // 3, "disagreements": n // 3}
            predicted, about = None, f"labels {runs.fingerprint(table[rows], table.loc[rows, 'given_label'])}"
        elif predicted is None:
            continue
        drawn_from = _candidates(table[rows], current[rows], pred_probs[rows], verdicts, predicted, list(class_names))
        frozen[split] = freeze_audit(run_dir, split, drawn_from, about=about, seed=seed, **options)
    return frozen


def audit_costs(frozen: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """What audits of a model's accuracy cost and buy, by split: `agreements`, `pictures`, `width` in points."""
    plans = [audit_plan(audit).assign(split=split) for split, audit in frozen.items() if split != "train"]
    return pd.concat(plans or [pd.DataFrame(columns=["split"])]).set_index("split")


def label_errors(audit: pd.DataFrame, given: pd.Series, journal: Path, *, class_names: Sequence[str]) -> pd.DataFrame:
    """Share of wrong labels, over all, by class and by pair, as an audit has it: for `plots.plot_intervals`.

    Args:
        audit: as from `draw_audits`.
        given: labels to judge, indexed by path.
        journal: holds the verdicts.
        class_names: the classes.

    Returns:
        `name` and the columns of `evaluate.audited_label_errors`; "drop" as a truth means that there is no class.
    """
    verdict = audit_truth(audit, journal, class_names=class_names)
    judged = audit["path"].map(given)
    found = audited_label_errors(verdict, judged, audit, class_names=class_names, groups=audit["group"])
    pair = found["label"] + found["truth"].map(lambda name: f" → {name}" if name else "")
    return found.assign(name=pair.mask(found["label"].eq(""), "all labels"))


def _candidates(
    table: pd.DataFrame,
    labels: pd.Series,
    pred_probs: np.ndarray,
    verdicts: pd.Series,
    predicted: pd.Series | None,
    names: Sequence[str],
) -> pd.DataFrame:
    """The rows that an audit is drawn from; those without a label or a prediction are left out."""
    codes = pd.Categorical(labels, names).codes
    probs = np.nan_to_num(np.asarray(pred_probs, float), nan=1 / len(names))
    rows = table[["path", "sha256", "group", "split"]].assign(label=labels)
    judged = np.asarray(names, dtype=object)[probs.argmax(axis=1)]
    rows["predicted"] = judged if predicted is None else rows["path"].map(predicted)
    rows["suspicion"] = 1 - probs[np.arange(len(rows)), codes]
    rows["reviewed"] = rows["sha256"].isin(verdicts.index)
    return rows[(codes >= 0) & rows["predicted"].notna()].reset_index(drop=True)


def _predictions(run_dir: Path, split: str) -> tuple[pd.Series | None, str | None]:
    """The model's answers on a split, by path, and 16 hex digits that change with any probability; None before 02."""
    file = Path(run_dir) / "predictions.parquet"
    table = pd.read_parquet(file).set_index("path").dropna() if file.exists() else pd.DataFrame({"split": []})
    probs = table[table["split"].eq(split)].drop(columns="split").sort_index()
    if probs.empty:
        return None, None
    digest = hashlib.sha256("\n".join([*probs.index, *probs.columns]).encode())
    digest.update(np.ascontiguousarray(probs.to_numpy(np.float32)).tobytes())
    return probs.idxmax(axis=1), f"predictions {digest.hexdigest()[:16]}"


def _own_seed(seed: int, split: str, about: str) -> int:
    """Another draw for each model: drawn alike, a second audit would shun what the first one left of a stratum."""
    return int.from_bytes(hashlib.sha256(f"{seed} {split} {about}".encode()).digest()[:8], "big")


def _files(run_dir: Path, split: str) -> tuple[Path, Path]:
    return Path(run_dir) / f"audit_{split}.parquet", Path(run_dir) / f"audit_{split}.json"


def _write(audit: pd.DataFrame, run_dir: Path, split: str, facts: dict[str, Any]) -> None:
    table, file = _files(run_dir, split)
    counts = {
        "strata": audit["stratum"].value_counts().to_dict(),
        "picked": audit.loc[audit["picked"], "stratum"].value_counts().to_dict(),
    }
    runs.write_table(audit, table)
    runs.write_json(facts | counts, file)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
