"""Which pictures does an audit show, and what has it found so far? The sample of `audit`, frozen as files of the run.

An audit is drawn once per model, before anyone looks: `audit_<split>.parquet` has one row a picture, and
`audit_<split>.json` says whose predictions it is about. It can grow, but never be drawn again for other predictions:
whoever may redraw until the number is pleasant has measured nothing. What reviewers answer goes to the journal, and
only what they answered blind, in the audit, counts here: who has seen a label tends to confirm it.
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
from nsfwlib.evaluate.audited import audited_accuracy, audited_share, judged
from nsfwlib.evaluate.intervals import share_interval
from nsfwlib.evaluate.weigh import at_any_time
from nsfwlib.labels import current_labels, decisions_in_force, read_journal, standing

AUDIT_COLUMNS = ("path", "sha256", "group", "split", "label", "predicted", "stratum", "order", "picked")


def freeze_audit(
    run_dir: Path,
    split: str,
    rows: pd.DataFrame,
    *,
    about: str,
    budget: int = 100,
    seed: int = 0,
) -> pd.DataFrame:
    """Draw the audit of a split and keep it in the run; if it is there already, return that one, enlarged if need be.

    One that was drawn for something else is replaced, with a warning, only if nobody has looked at any of its pictures.

    Args:
        run_dir: of the model.
        split: "test", "val" or "train".
        rows: `path`, `sha256`, `group`, `split`, `label` and `predicted` of the pictures to draw from, whether they
            were `reviewed` before, and the judge's probabilities, `P(<class>)`.
        about: what is audited, such as a fingerprint of the predictions: another one needs another run.
        budget: how many pictures to look at; a smaller number never shrinks an audit.
        seed: of the draw.

    Returns:
        One row a picture: `AUDIT_COLUMNS` and the judge's. Audits of earlier versions have no judge, and what was
        reviewed before is not asked for in them until they are enlarged.

    Raises:
        ValueError: an audit of something else is frozen here, and somebody has begun to answer it.
    """
    audit, record = load_audit(run_dir, split), _files(run_dir, split)[1]
    if audit is not None and runs.read_json(record)["about"] != about:
        begun = audit.loc[audit["picked"], "sha256"].isin(rows.loc[rows["reviewed"], "sha256"])
        audit = load_audit(run_dir, split, about=about) if begun.any() else None
        warnings.warn(f"The audit of {split} was of an older model, and nobody had begun it: drawn anew.", stacklevel=2)
    if audit is None:
        judge = rows.filter(regex=r"^P\(")
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


def _verdicts(lines: pd.DataFrame, class_names: Sequence[str]) -> pd.DataFrame:
    """The last line of each picture that says a class, or "drop", in `answer`; unsure and escalated ones have none."""
    last = lines.drop_duplicates("sha256", keep="last")
    last = last.assign(answer=last["decision"].mask(last["decision"].eq("keep"), last["given_label"]))
    return last[last["answer"].isin([*class_names, "drop"])].set_index("sha256")


def audit_truth(audit: pd.DataFrame, journal: Path, *, class_names: Sequence[str]) -> pd.Series:
    """The blind answer on each row of the audit, None where there is none; "drop" where a picture has no class.

    A picture to drop has no right answer: it counts against the model's accuracy, and its label as an error. Before
    answers to audits had a kind of their own in the journal, they were the decisions for which nothing was shown.
    """
    found = audit["sha256"].map(_blind(journal, class_names)["answer"]).astype(object)
    return found.where(found.notna(), None)


def _blind(journal: Path, class_names: Sequence[str]) -> pd.DataFrame:
    lines = standing(read_journal(journal), "audit", "decision")
    unseen = lines["suggested"].eq("") & lines["score"].isna() & lines["decision"].ne("keep")
    return _verdicts(lines[lines["kind"].eq("audit") | unseen], class_names)


def second_looks(audit: pd.DataFrame, journal: Path, *, class_names: Sequence[str]) -> tuple[float, float, int] | None:
    """How many blind second looks by somebody else agreed with the audit's answers, of how many, and of how many
    classes; counts of independent pictures. None before there is one.
    """
    first = _blind(journal, class_names)
    looks = standing(read_journal(journal), "second")
    looks = looks[looks["sha256"].isin(audit.loc[audit["picked"], "sha256"]) & looks["sha256"].isin(first.index)]
    looks = looks[looks["reviewer"].ne(looks["sha256"].map(first["reviewer"]))]
    second = _verdicts(looks, class_names)["answer"]
    if second.empty:
        return None
    group = second.index.map(audit.drop_duplicates("sha256").set_index("sha256")["group"])
    same = share_interval(second.eq(first["answer"][second.index]).to_numpy(), group)
    return float(same.hits), float(same.worth), len(class_names)


def audit_accuracies(
    audit: pd.DataFrame,
    verdict: pd.Series,
    *,
    labels: Sequence[str] | None = None,
    planted: Sequence[str] | None = None,
    agreed: tuple[float, float, int] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Accuracy as the labels have it, as the audit has it, and where it is known the true one: for `plot_intervals`.

    Args:
        audit: as from `load_audit`.
        verdict: as from `audit_truth`.
        labels: (N,) given labels; those at the time of the draw by default.
        planted: (N,) true class of every row, known for the demo alone; counted, so without an interval.
        agreed: as from `second_looks`: a line more, with the reviewers' own slips taken out.
        seed: of the interval's draws.

    Returns:
        `name`, `value`, `low`, `high`, `pictures` (looked at), `note`. Where pictures were unsure, escalated or hidden,
        a line has the interval that holds whatever they are.
    """
    predicted = audit["predicted"].to_numpy(object)
    given = np.asarray(audit["label"] if labels is None else labels, dtype=object)
    believed = share_interval(given == predicted, audit["group"])
    rows = [{"name": "believing the labels", "value": believed.value, "low": believed.low, "high": believed.high}]
    found = audited_accuracy(verdict, predicted, audit, seed=seed)
    rows.append({"name": "audited", "pictures": found["audited"]} | found)
    if found["worst_low"] < found["low"] or found["worst_high"] > found["high"]:
        worst = {"low": found["worst_low"], "high": found["worst_high"], "note": "whatever the unsure pictures are"}
        rows.append(rows[-1] | {"name": "audited, at worst and at best"} | worst)
    if agreed is not None:
        cleared = audited_accuracy(verdict, predicted, audit, agreed=agreed, seed=seed)
        note = f"if reviewers' slips are independent; {agreed[1]:.0f} second looks"
        rows.append({"name": "audited, slips taken out", "pictures": cleared["audited"]} | cleared | {"note": note})
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
    begin = "" if seen else " No audit has been done yet: notebook 03 has it in its grid."
    return f"{seen:,} of {due:,} pictures of the audit have a verdict; it stands for {len(audit):,}.{begin}"


def audit_width(audit: pd.DataFrame, journal: Path, *, class_names: Sequence[str], wish: float) -> str:
    """How exact an audit is by now, in a sentence: an interval that holds whenever one stops (see `at_any_time`).

    Never the estimate: who sees it and goes on until it is pleasant biases it. About the labels for an audit of
    `train`, else about the predictions; `wish` in points more or less.
    """
    verdict, of = audit_truth(audit, journal, class_names=class_names), audit["predicted"]
    seen, due = int((audit["picked"] & verdict.notna()).sum()), int(audit["picked"].sum())
    if not seen:
        return f"{due:,} pictures to look at; wish ±{wish:g} points"
    of = audit["label"] if audit["split"].eq("train").all() else of
    found = audited_accuracy(verdict, of, audit)
    half = 50 * at_any_time(found["high"] - found["low"], seen, due)
    more = int(np.ceil(seen * ((half / wish) ** 2 - 1)))
    return f"±{half:.1f} points after {seen:,} looks; wish ±{wish:g}: " + (
        f"about {more:,} more" if more > 0 else "done"
    )


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
    frozen, reviewed = {}, _verdicts(decisions_in_force(journal), class_names).index
    for split, n in sizes.items():
        rows = table["split"].eq(split)
        predicted, about = _predictions(run_dir, split)
        if split == "train":
            predicted, about = None, f"labels {runs.fingerprint(table[rows], table.loc[rows, 'given_label'])}"
        elif predicted is None:
            continue
        drawn_from = _candidates(table[rows], current[rows], pred_probs[rows], reviewed, predicted, list(class_names))
        frozen[split] = freeze_audit(run_dir, split, drawn_from, about=about, budget=n, seed=seed)
    return frozen


def audit_costs(frozen: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """What audits of a model's accuracy cost and buy, by split: `pictures`, `width` in points."""
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
        One row a share: `name`, `label` ("" for all), `truth` ("" for any other class, "drop" for none), and the
        columns of `evaluate.audited_share`. Pairs are those seen in the sample.
    """
    verdict = audit_truth(audit, journal, class_names=class_names)
    labels = audit["path"].map(given)
    known, seen = verdict.notna(), audit["picked"] & verdict.notna() & verdict.ne(labels)
    pairs = sorted(set(zip(labels[seen], verdict[seen], strict=True)))
    rows = []
    for label, truth in [("", ""), *((name, "") for name in class_names), *pairs]:
        outcome = verdict.eq(truth) if truth else verdict.ne(labels)
        expected = judged(audit, [truth] * len(audit) if truth else labels)
        expected = expected if truth or expected is None else 1 - expected
        among = labels.eq(label) if label else None
        name = f"{label} → {truth}" if truth else label or "all labels"
        found = audited_share(outcome.astype(float).where(known), audit, expected=expected, among=among)
        rows.append({"name": name, "label": label, "truth": truth} | found)
    return pd.DataFrame(rows)


def errors_left(
    audit: pd.DataFrame | None, table: pd.DataFrame, journal: Path, *, class_names: Sequence[str]
) -> dict[str, Any]:
    """How many labels of an audited split are still wrong: `value`, `low`, `high`, `corrected`, and a `sentence`.

    What the audit says was wrong as filed, less what has been corrected since; both count every picture of the split.
    Each correction is taken to be right: a wrong one is an error that this does not see.
    """
    found = {"value": np.nan}
    if audit is not None:
        given = table.set_index("path")["given_label"]
        found = label_errors(audit, given, journal, class_names=class_names).iloc[0].to_dict()
    if audit is None or np.isnan(found["value"]):
        return found | {"sentence": "label errors left: unknown before the audit of train is answered"}
    current = current_labels(table, journal).set_axis(table["path"])[audit["path"]]
    corrected = int(current.fillna("").ne(given[audit["path"]]).sum())
    left = {name: max(0, round(found[name] * len(audit)) - corrected) for name in ("value", "low", "high")}
    said = f"label errors left in {audit['split'].iloc[0]}: {left['value']:,} ({left['low']:,}–{left['high']:,})"
    return left | {"corrected": corrected, "sentence": said}


def _candidates(
    table: pd.DataFrame,
    labels: pd.Series,
    pred_probs: np.ndarray,
    reviewed: pd.Index,
    predicted: pd.Series | None,
    names: Sequence[str],
) -> pd.DataFrame:
    """The rows that an audit is drawn from; those without a label or a prediction are left out."""
    probs = np.nan_to_num(np.asarray(pred_probs, float), nan=1 / len(names))
    rows = table[["path", "sha256", "group", "split"]].assign(label=labels)
    judged = np.asarray(names, dtype=object)[probs.argmax(axis=1)]
    rows["predicted"] = judged if predicted is None else rows["path"].map(predicted)
    rows["reviewed"] = rows["sha256"].isin(reviewed)
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
