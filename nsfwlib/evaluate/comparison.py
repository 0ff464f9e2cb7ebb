"""Which detector is best on these pictures, and is its lead more than chance? All from one audit that serves all.

Intervals of rankings are a Bayesian bootstrap by near-duplicate group within strata, with half a picture more of each
side, ranked as badly, or as well, as can be: the rule of `weigh`, for numbers that are no means.
"""

import itertools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nsfwlib import runs
from nsfwlib.evaluate.audit import audited_rows, audited_scores
from nsfwlib.evaluate.detectors import is_wrong
from nsfwlib.evaluate.intervals import TAILS, Names, bootstrap_weights
from nsfwlib.evaluate.thresholds import Judged, counts_by_threshold
from nsfwlib.labels import group_codes

AGREEMENT = "agreement of all"
TRUST = 0.9  # in a label, where it serves as the judge of `audited_share`; how much it is worth is fitted there
PICTURES = ["path", "sha256", "group", "split", "label"]
DRAWS = 500  # of the bootstrap
FLIPS = 2000  # of signs, of the test
LEVEL = 0.05  # at which a lead is named
RATES = {"recall at FPR 1 %": 0.01, "recall at FPR 0.1 %": 0.001}
Detectors = Mapping[str, pd.DataFrame]


def shared_audit(
    run_dir: Path,
    images: pd.DataFrame,
    detectors: Detectors,
    *,
    class_names: Names,
    unsafe_classes: Names,
    budget: int = 150,
    seed: int = 0,
) -> pd.DataFrame:
    """The frozen audit of these pictures, drawn if it is not there, enlarged by what new detectors dispute.

    It is the union of what any detector disputes, which gets up to two thirds of the budget, all of it where that is
    enough and never less than it has, and a sample of what none does. Each picture keeps one random number for good,
    and of each stratum those with the lowest are looked at (permanent random numbers: Ohlsson, Coordination of Samples,
    1995). A later detector only moves pictures from *agreement* to a stratum of its own: what was picked stays picked,
    and is still a random part of where it is, whatever was answered. A later detector adds to the `budget` of looks, a
    smaller budget never shrinks an audit. A ValueError where the one in the run is of other pictures.

    `audit_detectors.parquet` in `run_dir`, whose attributes say what was drawn when, has `PICTURES` of the N `images`
    (their `label` in force) for `audit_queue` and `audit_truth`, with `draw`, `stratum`, `order`, `picked`,
    `predicted`, the label again, and `P(<class>)`, a judge that believes it.
    """
    table, about = Path(run_dir) / "audit_detectors.parquet", runs.fingerprint(images, images["path"])
    if table.exists():
        audit = pd.read_parquet(table)
        if audit.attrs.get("about") != about:
            raise ValueError(
                f"{table} was drawn from {len(audit):,} other pictures. Received: {len(images):,}. An audit is drawn "
                "once: compare on the same pictures, use a new run_dir, or give it up for good by deleting the file."
            )
    else:
        audit = images[PICTURES].assign(predicted=images["label"], stratum=AGREEMENT, picked=False)
        audit = audit.reset_index(drop=True)
        audit["draw"] = np.random.default_rng([seed, int(about, 16)]).random(len(audit))
        for name in class_names:
            audit[f"P({name})"] = np.where(audit["label"].eq(name), TRUST, (1 - TRUST) / max(len(class_names) - 1, 1))
        audit.attrs |= {"about": about, "drawn": {}}
    labels = audit.set_index("path")["label"]
    disputed = [is_wrong(some, labels, unsafe_classes=unsafe_classes).to_numpy() for some in detectors.values()]
    fresh = np.any(disputed, axis=0) & audit["stratum"].eq(AGREEMENT)
    larger = audit.assign(stratum=audit["stratum"].mask(fresh, f"disagreement {audit['stratum'].nunique()}"))
    larger["order"] = larger.groupby("stratum")["draw"].rank().astype(int) - 1
    apart = larger["stratum"].value_counts().drop(AGREEMENT, errors="ignore")
    quota = np.minimum(apart, np.ceil(budget * 2 / 3 * apart / max(apart.sum(), 1)))
    quota[AGREEMENT] = max(budget - quota.sum(), 0)
    larger["picked"] = larger["order"].lt(larger["stratum"].map(quota)) | audit["picked"]
    if larger["picked"].sum() > audit["picked"].sum() or not larger["stratum"].equals(audit["stratum"]):
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        larger.attrs = audit.attrs | {"drawn": audit.attrs["drawn"] | {now: list(detectors)}}
        runs.write_table(larger, table)
    return larger


def comparable_rows(
    detectors: Detectors, audit: pd.DataFrame, verdict: pd.Series, *, class_names: Names
) -> pd.DataFrame:
    """The rows of a shared audit that all detectors have scored, by path.

    `label` is the truth, None where nobody answered; `weight` how many pictures each stands for, 0 where the truth is
    unknown or no class. `attrs["note"]` says how many have no answer or no score.
    """
    rows = audit.set_index("path").assign(label=verdict.to_numpy(object))
    rows["weight"] = audited_rows(audit, verdict, class_names=class_names)["weight"]
    scored = np.all([some.loc[rows.index, "unsafe_score"].notna() for some in detectors.values()], axis=0)
    due = int((rows["picked"] & rows["label"].isna()).sum())
    notes = [f"{due:,} of {audit['picked'].sum():,} picked pictures have no answer."] if due else []
    notes += [] if scored.all() else [f"{(~scored).sum():,} pictures are left out: not all detectors scored them."]
    rows.attrs["note"] = " ".join(notes)
    return rows[scored]


def compare_detectors(
    detectors: Detectors,
    rows: pd.DataFrame,
    *,
    unsafe_classes: Names,
    prevalence: float,
    thresholds: Mapping[str, float] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """One row a detector, the best AUROC first; each number with `_low` and `_high`, of 95 %.

    Args:
        rows: as from `comparable_rows`; a ValueError where they are all safe, or all unsafe.
        prevalence: share of unsafe uploads where it will run; the precision is that of Bayes' rule there.
        thresholds: from which each flags, by name; ½ by default.

    Columns: `detector`; `class accuracy` and `balanced accuracy` where classes map; `AUROC`, `AP` (average precision,
    at the share of unsafe among these pictures), `recall at FPR 1 %` and `0.1 %`; `recall`, `FPR` and `precision` at
    the threshold; no precision where nothing is flagged.
    """
    answered, table = rows[rows["weight"].gt(0)], []
    drawn = _weighings(rows, _is_unsafe(answered, unsafe_classes), seed)
    for name, detector in detectors.items():
        found = {}
        if len(detector.columns) > 1:  # it tells classes apart
            probs = detector.drop(columns="unsafe_score").loc[rows.index]
            scores = audited_scores(rows["label"], probs.to_numpy(), rows, class_names=list(probs), seed=seed)
            found["class accuracy"], found["balanced accuracy"] = scores[["value", "low", "high"]].head(2).to_numpy()
        score, cut = detector.loc[answered.index, "unsafe_score"].to_numpy(), (thresholds or {}).get(name, 0.5)
        point, *others = [_rankings(score, *end, cut=cut, prevalence=prevalence) for end in drawn]
        for measure, (value,) in point.items():
            ends = np.nanquantile([some[measure] for some in others], TAILS, axis=1)  # wrongly ranked, a rate rises
            found[measure] = value, min(ends[0].min(), value), max(ends[1].max(), value)
        columns = {f"{m}{end}": v for m, vs in found.items() for end, v in zip(("", "_low", "_high"), vs, strict=True)}
        table.append({"detector": name} | columns)
    return pd.DataFrame(table).sort_values("AUROC", ascending=False, kind="stable", ignore_index=True)


def _is_unsafe(answered: pd.DataFrame, unsafe_classes: Names) -> np.ndarray:
    unsafe = answered["label"].isin(list(unsafe_classes)).to_numpy()
    if not 0 < unsafe.sum() < len(unsafe):
        received = f"Received: {unsafe.sum():,} unsafe of {len(unsafe):,}. Answer more, or check unsafe_classes."
        raise ValueError(f"Expected safe and unsafe pictures among those answered. {received}")
    return unsafe


def _weighings(rows: pd.DataFrame, unsafe: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """Sides and weights (n, .) of the answered; draws with half a row more a side, ranked wrongly (-1) or right (1)."""
    weight, known = rows["weight"].to_numpy(), rows["weight"].gt(0).to_numpy()
    members, strata = pd.factorize(group_codes(rows["group"], len(rows))[known])[0], pd.factorize(rows["stratum"])[0]
    size, at, rng = np.bincount(strata), strata[known], np.random.default_rng(seed)
    draws = np.concatenate(list(bootstrap_weights(members, DRAWS, rng)), axis=1).astype(float)
    mass = pd.Series(weight[known]).groupby(at).transform("sum").to_numpy()  # some answers are no class
    total = pd.DataFrame(draws).groupby(at).transform("sum").to_numpy()
    draws *= rng.dirichlet(size, DRAWS).T[at] * len(rows) * (mass / size[at])[:, None] / total
    heft = np.bincount(members, weight[known])
    more = (heft**2).sum() / heft.sum() * rng.gamma(0.5, size=(2, DRAWS))
    sides, draws = np.r_[unsafe, True, False], np.concatenate([draws, more])
    return [(unsafe, weight[known, None], 0), (sides, draws, -1), (sides, draws, 1)]


def _rankings(
    score: np.ndarray, unsafe: np.ndarray, weights: np.ndarray, ranked: int, *, cut: float, prevalence: float
) -> dict[str, np.ndarray]:
    """What scores (n,) are worth, each (B,), by sides and weights (n, B); arguments as from `_weighings`."""
    score = np.r_[score, ranked * np.inf, -ranked * np.inf] if ranked else score
    steps, *counts = counts_by_threshold(Judged(unsafe, score, weights))
    hits, alarms = (np.concatenate([0 * part[:1], part]) for part in counts)
    recall, fpr = hits / hits[-1], alarms / alarms[-1]
    flagged, at = np.maximum(hits[1:] + alarms[1:], 1e-12), np.searchsorted(-steps, -cut, side="right")
    right, wrong = prevalence * recall[at], (1 - prevalence) * fpr[at]
    return {
        "AUROC": np.trapezoid(recall, fpr, axis=0), "AP": (np.diff(recall, axis=0) * hits[1:] / flagged).sum(axis=0),
        **{name: np.where(fpr <= rate + 1e-12, recall, 0).max(axis=0) for name, rate in RATES.items()},
        "recall": recall[at], "FPR": fpr[at], "precision": right / np.where(right + wrong > 0, right + wrong, np.nan),
    }  # fmt: skip


def differences_to_best(
    detectors: Detectors, rows: pd.DataFrame, *, unsafe_classes: Names, measure: str = "AUROC", seed: int = 0
) -> pd.DataFrame:
    """How far each detector is behind the best, and whether that is more than chance.

    Were two detectors alike, each near-duplicate group's part in their difference could as well have the other sign.
    p is the share of sign flips in which the largest difference of any two, in its standard errors, is as large: so it
    allows for choosing the best among many (Westfall and Young, Resampling-based Multiple Testing, 1993). The parts of
    an accuracy are the pictures (McNemar); those of AUROC each picture's rank among the other side (DeLong, DeLong and
    Clarke-Pearson, Comparing the Areas under Two or More Correlated ROC Curves, 1988). A rate at a threshold has no p.

    `rows` are those of `comparable_rows`, `measure` is "AUROC", "accuracy" or "balanced accuracy"; detectors that tell
    no classes have AUROC alone. The best comes first: `detector`, `value`, `difference` with `low` and `high` (of 95 %,
    for all of them at once), `p`, `sentence`.
    """
    names = [name for name, some in detectors.items() if measure == "AUROC" or len(some.columns) > 1]
    if measure not in ("AUROC", "accuracy", "balanced accuracy") or not names:
        expected = "Expected AUROC, or accuracy or balanced accuracy of detectors that tell classes."
        raise ValueError(f"{expected} Received: {measure!r} of {len(names)} such.")
    answered = rows[rows["weight"].gt(0)]
    unsafe, members = _is_unsafe(answered, unsafe_classes), group_codes(answered["group"], len(answered))
    parts = np.array([_parts(detectors[name].loc[answered.index], answered, unsafe, measure) for name in names])
    table = pd.DataFrame({"detector": names, "value": parts.sum(axis=1) / (2 if measure == "AUROC" else 1)})
    table = table.sort_values("value", ascending=False, kind="stable")
    of_group = np.stack([np.bincount(members, parts[i]) for i in table.index], axis=1)  # (groups, detectors)
    signs = np.random.default_rng(seed).choice(np.array([-1, 1], np.float32), (FLIPS, len(of_group)))
    flipped, most, error = signs @ of_group, np.zeros(FLIPS), np.zeros((len(names), len(names)))
    for i, j in itertools.combinations(range(len(names)), 2):
        error[i, j] = np.linalg.norm(of_group[:, i] - of_group[:, j])
        most = np.maximum(most, np.abs(flipped[:, i] - flipped[:, j]) / max(error[i, j], 1e-12))
    table = table.reset_index(drop=True).assign(difference=table["value"].to_numpy() - table["value"].iloc[0])
    half = np.quantile(most, 1 - LEVEL) * error[0]
    table["low"], table["high"] = ((table["difference"] + sign * half).clip(-1, 1) for sign in (-1, 1))
    size = np.abs(table["difference"]) / np.maximum(error[0], 1e-12)
    table["p"] = [(1 + (most >= some - 1e-9).sum()) / (1 + FLIPS) if i else np.nan for i, some in enumerate(size)]
    table["sentence"] = [_verdict(row, table["detector"][0], measure) for row in table.itertuples()]
    return table


def _parts(scores: pd.DataFrame, answered: pd.DataFrame, unsafe: np.ndarray, measure: str) -> np.ndarray:
    """What each answered row adds: they sum to the measure, or to twice the AUROC, once over either side."""
    weight, label = answered["weight"].to_numpy(), answered["label"]
    if measure != "AUROC":
        right = scores.drop(columns="unsafe_score").idxmax(axis=1).eq(label).to_numpy()
        of_class = answered.groupby("label")["weight"].transform("sum") * label.nunique()
        return weight * right / (of_class.to_numpy() if measure != "accuracy" else weight.sum())
    parts, score = np.zeros(len(answered)), scores["unsafe_score"].to_numpy()
    for side in (unsafe, ~unsafe):
        order = np.argsort(score[~side], kind="stable")
        below = np.cumsum(np.r_[0, weight[~side][order]]) / weight[~side].sum()
        ends = (np.searchsorted(score[~side][order], score[side], side=end) for end in ("left", "right"))
        beaten = sum(below[end] for end in ends) / 2  # share of the other side that scores less
        parts[side] = weight[side] / weight[side].sum() * (beaten if side is unsafe else 1 - beaten)
    return parts


def _verdict(row: Any, best: str, measure: str) -> str:
    if row.detector == best:
        return f"{best} has the highest {measure}: {row.value:.3f}."
    one, other = ("", "leads") if row.p <= LEVEL else ("no difference shown between ", "and")
    points = f"{100 * row.difference:+.1f} points of {measure} ({100 * row.low:+.1f} to {100 * row.high:+.1f})"
    return f"{one}{best} {other} {row.detector}: {points}, p = {row.p:.3g}."
