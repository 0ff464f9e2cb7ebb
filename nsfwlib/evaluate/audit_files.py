"""Which pictures does an audit show? The sample of `audit`, frozen as files of the run.

An audit is drawn once per model, before anyone looks: `audit_<split>.parquet` has one row a picture, and
`audit_<split>.json` says whose predictions it is about. It can grow, but never be drawn again for other predictions:
whoever may redraw until the number is pleasant has measured nothing. What reviewers answer goes to the journal.
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
from nsfwlib.evaluate.audit import audit_plan, draw_audit, enlarge_audit
from nsfwlib.evaluate.audit_answers import blind_answers, verdicts
from nsfwlib.evaluate.audited import JUDGE
from nsfwlib.labels import decisions_in_force

AUDIT_COLUMNS = ("path", "sha256", "group", "split", "label", "predicted", "stratum", "order", "picked")


def freeze_audit(
    run_dir: Path, split: str, rows: pd.DataFrame, *, about: str, budget: int = 100, seed: int = 0
) -> pd.DataFrame:
    """Draw the audit of a split and keep it in the run; if it is there already, return that one, enlarged if need be.

    One that was drawn for something else is replaced, with a warning, only if nobody has looked at any of its pictures.

    Args:
        run_dir: of the model.
        split: "test", "val" or "train".
        rows: `path`, `sha256`, `group`, `split`, `label` and `predicted` of the pictures to draw from, whether they
            were `reviewed` before, or `answered` blind, and the judge's probabilities, `P(<class>)`.
        about: what is audited, such as a fingerprint of the predictions: another one needs another run.
        budget: how many pictures to look at; a smaller number never shrinks an audit.
        seed: of the draw.

    Returns:
        One row a picture: `AUDIT_COLUMNS` and the judge's.

    Raises:
        ValueError: an audit of something else is frozen here, and somebody has begun to answer it.
    """
    audit, record = load_audit(run_dir, split), _files(run_dir, split)[1]
    if audit is not None and runs.read_json(record)["about"] != about:
        begun = audit.loc[audit["picked"], "sha256"].isin(rows.loc[rows["answered"], "sha256"])
        audit = load_audit(run_dir, split, about=about) if begun.any() else None
        warnings.warn(f"The audit of {split} was of an older model, and nobody had begun it: drawn anew.", stacklevel=2)
    if audit is None:
        judge = rows.filter(regex=JUDGE)
        drawn = draw_audit(
            rows["label"], rows["predicted"], judge, class_names=[name[2:-1] for name in judge],
            reviewed=rows["reviewed"], budget=budget, seed=_own_seed(seed, split, about),
        )  # fmt: skip
        audit = rows[list(AUDIT_COLUMNS[:4])].join(drawn)
        _write(audit, run_dir, split, {"about": about, "seed": seed, "drawn": _now()})
    larger = enlarge_audit(audit, budget=budget)
    if larger["picked"].sum() > audit["picked"].sum():
        _write(larger, run_dir, split, runs.read_json(record) | {"enlarged": _now()})
    return larger


def load_audit(run_dir: Path, split: str, *, about: str | None = None) -> pd.DataFrame | None:
    """The frozen audit of a split; None where none was drawn.

    Audits of earlier versions have no judge and get one that knows nothing; what was reviewed before is not asked for
    in them until they are enlarged.

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
    audit = pd.read_parquet(table)
    if audit.filter(regex=JUDGE).empty:
        names = sorted({*audit["label"], *audit["predicted"]})
        audit[[f"P({name})" for name in names]] = 1 / len(names)
    return audit


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
        sizes: split → how many pictures to look at. "test" and "val" are about the model, "train" about its labels.
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
    said = verdicts(decisions_in_force(journal), class_names), blind_answers(journal, class_names)
    frozen = {}
    for split, n in sizes.items():
        rows = table["split"].eq(split)
        predicted, about = _predictions(run_dir, split)
        if split == "train":
            predicted, about = None, f"labels {runs.fingerprint(table[rows], table.loc[rows, 'given_label'])}"
        elif predicted is None:
            continue
        drawn_from = _candidates(table[rows], current[rows], pred_probs[rows], said, predicted, list(class_names))
        frozen[split] = freeze_audit(run_dir, split, drawn_from, about=about, budget=n, seed=seed)
    return frozen


def audit_costs(frozen: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """What audits of a model's accuracy cost and buy, by split: `pictures`, `width` in points."""
    plans = [audit_plan(audit).assign(split=split) for split, audit in frozen.items() if split != "train"]
    return pd.concat(plans or [pd.DataFrame(columns=["split"])]).set_index("split")


def _candidates(
    table: pd.DataFrame,
    labels: pd.Series,
    pred_probs: np.ndarray,
    said: Sequence[pd.DataFrame],
    predicted: pd.Series | None,
    names: Sequence[str],
) -> pd.DataFrame:
    """The rows that an audit is drawn from; those without a label or a prediction are left out."""
    probs = np.nan_to_num(np.asarray(pred_probs, float), nan=1 / len(names))
    rows = table[["path", "sha256", "group", "split"]].assign(label=labels)
    judged = np.asarray(names, dtype=object)[probs.argmax(axis=1)]
    rows["predicted"] = judged if predicted is None else rows["path"].map(predicted)
    rows["reviewed"], rows["answered"] = (rows["sha256"].isin(some.index) for some in said)
    rows[[f"P({name})" for name in names]] = probs
    return rows[rows["label"].isin(names) & rows["predicted"].notna()].reset_index(drop=True)


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
