"""Which pictures does an audit show, what did reviewers answer, and what does that say by now?

The sample is drawn once per model and frozen in the run: `audit_<split>.parquet` has one row a picture, and
`audit_<split>.json` says whose predictions it is about. It can grow, but who may redraw until the number pleases has
measured nothing. Of the journal only answers given blind count: who has seen a label tends to confirm it.
"""

import hashlib
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nsfwlib import runs
from nsfwlib.data import SPLITS
from nsfwlib.evaluate.audit import JUDGE, audited_accuracy, audited_share, draw_audit, enlarge_audit, judged
from nsfwlib.evaluate.intervals import Names, at_any_time
from nsfwlib.evaluate.reviewers import Slips, reviewer_accuracies
from nsfwlib.labels import current_labels, decisions_in_force, read_journal, standing

AUDIT_COLUMNS = ("path", "sha256", "group", "split", "label", "predicted", "stratum", "order", "picked")


def draw_audits(
    run_dir: Path,
    sizes: Mapping[str, int],
    table: pd.DataFrame,
    current: pd.Series,
    pred_probs: np.ndarray,
    journal: Path,
    *,
    class_names: Names,
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """The frozen audits of these splits, drawn if they are not there; without `predictions.parquet` only `train`.

    Args:
        sizes: split → how many pictures to look at. "test" and "val" are about the model, "train" about its labels.
            `val`, which chooses thresholds, is drawn evenly.
        table: the images table; usable rows. Those without a label or a prediction are left out.
        current: labels in force, in its order, like `pred_probs` (N, K), those of the judge.
        journal: the decisions journal, as it is before anyone looks at the sample.

    A ValueError where an audit of other predictions is in the run, or there is no such split.
    """
    if unknown := sorted(set(sizes) - set(SPLITS)):
        raise ValueError(f"Audits are of {', '.join(SPLITS)}. Received: {', '.join(unknown)}.")
    probs = np.nan_to_num(np.asarray(pred_probs, float), nan=1 / len(class_names))
    guessed = np.asarray(class_names, dtype=object)[probs.argmax(axis=1)]
    rows = table[["path", "sha256", "group", "split"]].assign(label=current, predicted=guessed)
    rows["reviewed"] = rows["sha256"].isin(verdicts(decisions_in_force(journal), class_names).index)
    rows["answered"] = rows["sha256"].isin(blind_answers(journal, class_names).index)
    rows[[f"P({name})" for name in class_names]] = probs
    frozen = {}
    for split, budget in sizes.items():
        part = rows[rows["split"].eq(split)]
        if split == "train":
            about = f"labels {runs.fingerprint(part, table['given_label'][part.index])}"
        else:
            predicted, about = _predictions(run_dir, split)
            part = part.assign(predicted=part["path"].map(predicted))
        if about is not None:
            part = part[part["label"].isin(list(class_names)) & part["predicted"].notna()].reset_index(drop=True)
            frozen[split] = freeze_audit(run_dir, split, part, about=about, budget=budget, seed=seed)
    return frozen


def freeze_audit(
    run_dir: Path, split: str, rows: pd.DataFrame, *, about: str, budget: int = 100, seed: int = 0
) -> pd.DataFrame:
    """Draw the audit of a split and keep it in the run; if it is there already, return that one, enlarged if need be.

    One of something else than `about` is replaced, with a warning, only if nobody has looked at any of its pictures;
    else it is a ValueError. A smaller `budget` never shrinks an audit. `rows`, to draw from, have the first six of
    `AUDIT_COLUMNS`, whether they were `reviewed`, or `answered` blind, and the judge's probabilities, `P(<class>)`.
    """
    (table, record), audit, facts = _files(run_dir, split), load_audit(run_dir, split), None
    if audit is not None and runs.read_json(record)["about"] != about:
        begun = audit.loc[audit["picked"], "sha256"].isin(rows.loc[rows["answered"], "sha256"])
        audit = load_audit(run_dir, split, about=about) if begun.any() else None
        warnings.warn(f"The audit of {split} was of an older model, and nobody had begun it: drawn anew.", stacklevel=2)
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if audit is None:
        judge = rows.filter(regex=JUDGE)
        # another draw for each model: drawn alike, a second audit would shun what the first one left of a stratum
        digest = hashlib.sha256(f"{seed} {split} {about}".encode()).digest()
        drawn = draw_audit(
            rows["label"], rows["predicted"], judge, class_names=[name[2:-1] for name in judge],
            reviewed=rows["reviewed"], even=split == "val", budget=budget, seed=int.from_bytes(digest[:8], "big"),
        )  # fmt: skip
        audit, facts = rows[list(AUDIT_COLUMNS[:4])].join(drawn), {"about": about, "seed": seed, "drawn": now}
    larger = enlarge_audit(audit, budget=budget)
    if larger["picked"].sum() > audit["picked"].sum():
        facts = runs.read_json(record) | {"enlarged": now}
    if facts:
        counts = {"strata": larger["stratum"], "picked": larger.loc[larger["picked"], "stratum"]}
        runs.write_table(larger, table)
        runs.write_json(facts | {name: some.value_counts().to_dict() for name, some in counts.items()}, record)
    return larger


def load_audit(run_dir: Path, split: str, *, about: str | None = None) -> pd.DataFrame | None:
    """The frozen audit of a split; None where none was drawn; a ValueError if it is about something else than `about`.

    Audits of earlier versions get a judge that knows nothing; what was reviewed before is asked for once they grow.
    """
    table, file = _files(run_dir, split)
    if not table.exists() or not file.exists():
        return None
    frozen = runs.read_json(file)["about"]
    if about is not None and about != frozen:
        raise ValueError(
            f"The audit of {split} in {run_dir} was drawn for {frozen}. Received: {about}. An audit belongs to one "
            f"model: give the new one a new run_dir, or give this one up for good: delete {table.name} and {file.name}."
        )
    audit = pd.read_parquet(table)
    if audit.filter(regex=JUDGE).columns.empty:
        names = sorted({*audit["label"], *audit["predicted"]})
        audit[[f"P({name})" for name in names]] = 1 / len(names)
    return audit


def _files(run_dir: Path, split: str) -> tuple[Path, Path]:
    return Path(run_dir) / f"audit_{split}.parquet", Path(run_dir) / f"audit_{split}.json"


def audits_of_run(run_dir: Path, split: str) -> pd.DataFrame | None:
    """As `load_audit`, of a run's predictions on `split`; a ValueError where it was drawn for others than those now."""
    return load_audit(run_dir, split, about=_predictions(run_dir, split)[1])


def _predictions(run_dir: Path, split: str) -> tuple[pd.Series, str | None]:
    """The model's answers on a split, by path, and 16 hex digits that change with any probability; none before 02."""
    file = Path(run_dir) / "predictions.parquet"
    table = pd.read_parquet(file).set_index("path").dropna() if file.exists() else pd.DataFrame({"split": []})
    probs = table[table["split"].eq(split)].drop(columns="split").sort_index()
    if probs.empty:
        return pd.Series(dtype=object), None
    digest = hashlib.sha256("\n".join([*probs.index, *probs.columns]).encode())
    digest.update(np.ascontiguousarray(probs.to_numpy(np.float32)).tobytes())
    return probs.idxmax(axis=1), f"predictions {digest.hexdigest()[:16]}"


def audit_queue(audit: pd.DataFrame) -> pd.DataFrame:
    """The picked rows as the queue of a `review.ReviewSession` in mode "audit", strata mixed evenly.

    Each in the random order of the draw: whoever stops early has seen a random sample of all. The session shows neither
    label nor prediction, and knows them only so that whoever hides a class is spared its pictures.
    """
    rows = audit[audit["picked"]].rename(columns={"label": "given", "predicted": "suggested"}).assign(score=np.nan)
    rows["place"] = (rows["order"] + 0.5) / rows.groupby("stratum")["order"].transform("max").add(1)
    rows = rows.sort_values(["place", "sha256"], ignore_index=True)
    return rows[["path", "sha256", "given", "suggested", "score", "group", "split"]]


def verdicts(lines: pd.DataFrame, class_names: Names) -> pd.DataFrame:
    """The last line of each picture that says a class, or "drop", in `answer`; unsure and escalated ones have none."""
    last = lines.drop_duplicates("sha256", keep="last").set_index("sha256")
    last["answer"] = last["decision"].mask(last["decision"].eq("keep"), last["given_label"])
    return last[last["answer"].isin([*class_names, "drop"])]


def blind_answers(journal: Path, class_names: Names) -> pd.DataFrame:
    """As `verdicts`, of what was answered in audits: nothing of the picture but itself was shown."""
    lines = standing(read_journal(journal), "audit", "decision")
    unseen = lines["suggested"].eq("") & lines["score"].isna() & lines["decision"].ne("keep")
    return verdicts(lines[lines["kind"].eq("audit") | unseen], class_names)


def audit_truth(audit: pd.DataFrame, journal: Path, *, class_names: Names) -> pd.Series:
    """The blind answer on each row of the audit, None where there is none; "drop" where a picture has no class.

    A picture to drop has no right answer: it counts against the model's accuracy, and its label as an error. Before
    answers to audits had a kind of their own in the journal, they were the decisions for which nothing was shown.
    """
    found = audit["sha256"].map(blind_answers(journal, class_names)["answer"]).astype(object)
    return found.where(found.notna(), None)


def second_looks(audit: pd.DataFrame, journal: Path, *, class_names: Names) -> Slips | None:
    """How often an audit's answers are right, by second looks of others, each weighed by answers; None before one."""
    first = blind_answers(journal, class_names)
    first = first[first.index.isin(audit.loc[audit["picked"], "sha256"])]
    looks = standing(read_journal(journal), "second")
    looks = looks[looks["sha256"].isin(first.index) & looks["reviewer"].ne(looks["sha256"].map(first["reviewer"]))]
    both = pd.concat([first, *(verdicts(some, class_names) for _, some in looks.groupby("reviewer"))]).reset_index()
    if len(both) == len(first):
        return None
    both["group"] = both["sha256"].map(audit.drop_duplicates("sha256").set_index("sha256")["group"])
    found = reviewer_accuracies(both, classes=len(class_names))
    theirs = first["reviewer"].value_counts().reindex(found.index, fill_value=0)
    right, *draws = np.average(found, axis=0, weights=theirs)
    return Slips(float(right), np.array(draws), len(class_names), found.attrs["pictures"])


def audit_progress(audit: pd.DataFrame | None, verdict: pd.Series | None) -> str:
    """How far an audit is, in a sentence; what to do where there is none."""
    if audit is None or verdict is None:
        return "No audit has been drawn: notebook 03 does it after 02, so that accuracy need not believe the labels."
    due, seen = audit["picked"].sum(), (audit["picked"] & verdict.notna()).sum()
    begin = "" if seen else " No audit has been done yet: notebook 03 has it in its grid."
    return f"{seen:,} of {due:,} pictures of the audit have a verdict; it stands for {len(audit):,}.{begin}"


def audit_width(frozen: Mapping[str, pd.DataFrame | None], journal: Path, *, class_names: Names, wish: float) -> str:
    """How exact audits are by now, in a sentence: intervals that hold whenever one stops (see `at_any_time`).

    Never the estimate: who sees it and goes on until it is pleasant biases it. About the labels for an audit of
    `train`, else about the predictions; `wish` in points more or less. Splits without an audit are left out.
    """
    said = []
    for split, audit in ((split, audit) for split, audit in frozen.items() if audit is not None):
        verdict = audit_truth(audit, journal, class_names=class_names)
        found = audited_accuracy(verdict, audit["label" if split == "train" else "predicted"], audit)
        seen, due = found["audited"], audit["picked"].sum()
        text = f"{due:,} pictures to look at; wish ±{wish:g} points"
        if seen:
            half = 50 * at_any_time(found["high"] - found["low"], seen, due)
            more = np.ceil(seen * ((half / wish) ** 2 - 1))
            rest = f"about {more:,.0f} more" if more > 0 else "done"
            text = f"±{half:.1f} points after {seen:,} looks; wish ±{wish:g}: {rest}"
        said.append(f"{split}: {text}")
    return " · ".join(said)


def label_errors(audit: pd.DataFrame, given: pd.Series, journal: Path, *, class_names: Names) -> pd.DataFrame:
    """Share of wrong labels, over all, by class and by pair, as an audit has it: for `plots.plot_intervals`.

    `given` are the labels to judge, by path. One row a share: `name`, `label` ("" for all), `truth` ("" for any other
    class, "drop" for none), and what `audited_share` gives. Pairs are those seen in the sample.
    """
    verdict = audit_truth(audit, journal, class_names=class_names)
    labels = audit["path"].map(given)
    known, seen = verdict.notna(), audit["picked"] & verdict.notna() & verdict.ne(labels)
    pairs = sorted(set(zip(labels[seen], verdict[seen], strict=True)))
    rows = []
    for label, truth in [("", ""), *((name, "") for name in class_names), *pairs]:
        outcome = (verdict.eq(truth) if truth else verdict.ne(labels)).astype(float).where(known)
        expected = judged(audit, [truth] * len(audit)) if truth else 1 - judged(audit, labels)
        found = audited_share(outcome, audit, expected=expected, among=labels.eq(label) if label else None)
        name = f"{label} → {truth}" if truth else label or "all labels"
        rows.append({"name": name, "label": label, "truth": truth} | found)
    return pd.DataFrame(rows)


def errors_left(
    audit: pd.DataFrame | None, table: pd.DataFrame, journal: Path, *, class_names: Names
) -> dict[str, Any]:
    """How many labels of an audited split are still wrong: `value`, `low`, `high`, `corrected`, and a `sentence`.

    What the audit says was wrong as filed, less what has been corrected since; both count every picture of the split.
    Each correction is taken to be right: a wrong one is an error that this does not see.
    """
    unknown = {"value": np.nan, "sentence": "label errors left: unknown before the audit of train is answered"}
    if audit is None:
        return unknown
    labels = table.assign(current=current_labels(table, journal).fillna("")).set_index("path").loc[audit["path"]]
    given, corrected = labels["given_label"], int(labels["current"].ne(labels["given_label"]).sum())
    held = audited_accuracy(audit_truth(audit, journal, class_names=class_names), given, audit)
    if np.isnan(held["value"]):
        return unknown
    ends = {"value": "value", "low": "high", "high": "low"}  # of errors, by that of right labels
    left = {name: max(0, round((1 - held[end]) * len(audit)) - corrected) for name, end in ends.items()}
    said = f"label errors left in {audit['split'].iloc[0]}: {left['value']:,} ({left['low']:,}–{left['high']:,})"
    return left | {"corrected": corrected, "sentence": said}
