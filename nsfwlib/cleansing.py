"""How do labels, features and decisions come together? The few steps that notebook 03 and its grid share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nsfwlib import agreement, audits, dataset, labels, runs
from nsfwlib.audit import audited_label_errors
from nsfwlib.journal import decisions as decisions_in_force
from nsfwlib.journal import read as read_journal
from nsfwlib.review import ReviewSession


def judge_labels(
    table: pd.DataFrame, features: Mapping[str, np.ndarray], journal: Path, *, class_names: Sequence[str], seed: int = 0
) -> tuple[pd.DataFrame, np.ndarray]:
    """Suspect labels of the images table as it stands: decisions applied, confirmed rows trusted.

    Labels of `test` judge nothing, corrected or not: its rows are judged by the others, as an audit needs it.

    Args:
        table: the images table with `path`, `sha256`, `given_label`, `split`, `group`; usable rows.
        features: block → (N, D) features of a network never trained on these labels.
        journal: the decisions journal; a missing file is an empty one.
        class_names: the K classes in order.
        seed: of folds and ties.

    Returns:
        The label issues beside `path`, `sha256`, `split`, `group`, in the order of `table`, most columns as from
        `labels.find_label_issues`; and out-of-sample probabilities (N, K).
    """
    current = dataset.current_labels(table, journal)
    decided = decisions_in_force(journal)
    firm = decided.loc[decided["decision"].isin(["keep", *class_names]), "sha256"]
    options = {"classes": list(class_names), "groups": table["group"], "seed": seed}
    trusted, is_test = table["sha256"].isin(firm).to_numpy(), table["split"].eq("test").to_numpy()
    judging = current.mask(is_test)
    pred_probs = labels.out_of_sample_probs(judging, features, trusted=trusted & ~is_test, **options)
    ranked = labels.find_label_issues(judging, pred_probs, trusted=trusted & ~is_test, **options)
    of_test = labels.find_label_issues(current, pred_probs, trusted=trusted, **options)
    issues = pd.concat([ranked[~is_test], of_test[is_test]]).loc[table.index]
    return pd.concat([table[["path", "sha256", "split", "group"]], issues], axis=1), pred_probs


def review_queue(issues: pd.DataFrame) -> pd.DataFrame:
    """The rows that a person may be asked about: not of `test`, with a label or a suggestion to judge.

    Unlabelled pictures come by predicted class; they count as suspects, for every one of them needs a label.
    """
    queue = issues[issues["split"].ne("test") & issues["suggested"].ne("")]
    return queue.assign(score=queue["score"].fillna(1.0))


def what_changed(before: pd.Series, after: pd.Series) -> pd.DataFrame:
    """Numbers of pictures by label before (rows) and after (columns) review, changed ones only."""
    names = "(left out)"
    was, now = before.fillna(names), after.fillna(names)
    changed = was.ne(now)
    return pd.crosstab(was[changed], now[changed], rownames=["was"], colnames=["is"])


def estimated_errors(current: pd.Series, pred_probs: np.ndarray, *, class_names: Sequence[str]) -> float:
    """How many labels are wrong, as the confident joint has it: its sum off the diagonal."""
    joint = labels.noise_matrix(current, pred_probs, classes=list(class_names)).to_numpy()
    return float(joint.sum() - np.trace(joint))


def what_review_cost(session: ReviewSession, *, estimated: float) -> pd.Series:
    """Work done and what it found: pictures, errors found, errors estimated left, minutes, errors a minute.

    `estimated` is the number of errors in the queue before review, as from `estimated_errors`.
    """
    progress = session.progress()
    minutes, found = progress["seconds"] / 60, progress["errors_found"]
    return pd.Series(
        {
            "pictures decided": progress["decided"],
            "errors found": found,
            "errors estimated left": max(0, round(estimated - found)),
            "minutes": round(minutes, 1),
            "errors found a minute": round(found / minutes, 1) if minutes else float("nan"),
        }
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
    unknown = sorted(set(sizes) - set(dataset.SPLITS))
    if unknown:
        raise ValueError(f"Audits are of {', '.join(dataset.SPLITS)}. Received: {', '.join(unknown)}.")
    frozen = {}
    for split, n in sizes.items():
        rows = table["split"].eq(split)
        about, predicted, options = audits.given_labels(table[rows]), None, {"agreements": n}
        if split == "train":
            options = {"agreements": n - n // 3, "disagreements": n // 3}
        elif (predictions := audits.predictions_of(run_dir, split)) is not None:
            about, predicted = audits.fingerprint(predictions), predictions.idxmax(axis=1)
        else:
            continue
        drawn_from = audits.candidates(
            table[rows], current[rows], pred_probs[rows], journal, class_names=class_names, predicted=predicted
        )
        frozen[split] = audits.freeze(run_dir, split, drawn_from, about=about, seed=seed, **options)
    return frozen


def audit_costs(frozen: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """What audits of a model's accuracy cost and buy, by split: `agreements`, `pictures`, `width` in points."""
    plans = [audits.costs(audit).assign(split=split) for split, audit in frozen.items() if split != "train"]
    return pd.concat(plans or [pd.DataFrame(columns=["split"])]).set_index("split")


def audit_session(audit: pd.DataFrame, journal: Path, **options: Any) -> ReviewSession:
    """The picked pictures of an audit, to be answered blind; `options` as of `ReviewSession`."""
    return ReviewSession(audits.queue(audit), journal, mode="audit", **options)


def open_session(
    run_dir: Path, journal: Path, *, mode: str = "review", share: float = 0.1, control_every: int = 0, **options: Any
) -> ReviewSession:
    """The session that a reviewer's page shows, from what notebook 03 left in the run.

    Args:
        run_dir: holds `images.parquet`, `label_issues.parquet`, `pred_probs.parquet` and the frozen audits.
        journal: the decisions journal.
        mode: as of `ReviewSession`.
        share: of what others decided, for mode "second".
        control_every: pages drawn at random, for mode "review".
        options: further ones of `ReviewSession`, such as `reviewer`.
    """
    table = runs.read_table(run_dir, "images.parquet", made_by="01_explore_data")
    table = table[table["problem"].eq("") & table["split"].ne("")].reset_index(drop=True)
    made_by = "03_cleanse_labels"
    probs = runs.read_table(run_dir, "pred_probs.parquet", made_by=made_by).set_index("path")
    options |= {"class_names": list(probs.columns), "images": table, "mode": mode}
    if mode == "second":
        queue = agreement.second_queue(table, read_journal(journal), reviewer=options.get("reviewer", ""), share=share)
    elif mode == "disagreement":
        queue = agreement.disagreement_queue(table, read_journal(journal))
    elif mode == "audit":
        frozen = [audits.load(run_dir, split) for split in dataset.SPLITS]
        queues = [audits.queue(audit) for audit in frozen if audit is not None]
        queue = pd.concat(queues or [pd.DataFrame(columns=agreement.QUEUE)], ignore_index=True)
    else:
        queue = review_queue(runs.read_table(run_dir, "label_issues.parquet", made_by=made_by))
        options |= {"pred_probs": probs.loc[queue["path"]].to_numpy(), "control_every": control_every}
    return ReviewSession(queue, journal, **options)


def label_errors(audit: pd.DataFrame, given: pd.Series, journal: Path, *, class_names: Sequence[str]) -> pd.DataFrame:
    """Share of wrong labels, over all, by class and by pair, as an audit has it: for `plots.plot_intervals`.

    Args:
        audit: as from `draw_audits`.
        given: labels to judge, indexed by path.
        journal: holds the verdicts.
        class_names: the classes.

    Returns:
        `name` and the columns of `audit.audited_label_errors`; "drop" as a truth means that there is no class.
    """
    verdict = audits.truth(audit, journal, class_names=class_names)
    judged = audit["path"].map(given)
    found = audited_label_errors(verdict, judged, audit, class_names=class_names, groups=audit["group"])
    pair = found["label"] + found["truth"].map(lambda name: f" → {name}" if name else "")
    return found.assign(name=pair.mask(found["label"].eq(""), "all labels"))


def reviewer_agreement(journal: Path, table: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """`agreement.agreement` of a journal, near-duplicates counted as the images table groups them; empty without."""
    answers = agreement.opinions(read_journal(journal))
    groups = table.drop_duplicates("sha256").set_index("sha256")["group"]
    return agreement.agreement(answers, groups=groups, seed=seed) if len(answers) else pd.DataFrame()


def journal_in_use(run_dir: Path, journal: Path) -> Path:
    """The journal that notebook 03 wrote to: that of the simulated reviewer in the run, or the real one."""
    record = Path(run_dir) / "cleansing.json"
    simulated = record.exists() and runs.read_json(record)["simulated"]
    return Path(run_dir) / "simulated_decisions.csv" if simulated else Path(journal)
