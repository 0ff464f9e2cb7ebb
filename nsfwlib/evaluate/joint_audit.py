"""Which pictures does a person look at so that any number of detectors can be compared on the same looks?

The union of what any detector disputes, and a sample of what none does. Each picture keeps one random number for good,
and of each stratum those with the lowest are looked at (permanent random numbers: Ohlsson, Coordination of Samples,
1995). A later detector only moves pictures from *agreement* to a stratum of its own: what was picked stays picked, and
is still a random part of where it is, whatever was answered.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from nsfwlib import runs
from nsfwlib.evaluate.detectors import is_wrong

AGREEMENT = "agreement of all"
TRUST = 0.9  # in a label, where it serves as the judge of `audited_share`; how much it is worth is fitted there
COLUMNS = ("path", "sha256", "group", "split", "label")


def shared_audit(
    run_dir: Path,
    images: pd.DataFrame,
    detectors: Mapping[str, pd.DataFrame],
    *,
    class_names: Sequence[str],
    unsafe_classes: Sequence[str],
    budget: int = 150,
    seed: int = 0,
) -> pd.DataFrame:
    """The frozen audit of these pictures, drawn if it is not there, enlarged by what new detectors dispute.

    Disagreements get up to two thirds of the budget, all of them where that is enough, and never less than they have.

    Args:
        run_dir: holds `audit_detectors.parquet`, whose attributes say what was drawn when.
        images: `COLUMNS` of N pictures, `label` the one in force.
        budget: pictures to look at; a later detector adds to it, a smaller number never shrinks an audit.

    Returns:
        One row a picture, for `audit_queue` and `audit_truth`: `COLUMNS`, `draw`, `stratum`, `order`, `picked`, and
        `predicted`, the label again, and `P(<class>)`, a judge that believes it.

    Raises:
        ValueError: the audit in the run is of other pictures.
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
        audit = images[list(COLUMNS)].reset_index(drop=True)
        audit = audit.assign(predicted=audit["label"], stratum=AGREEMENT, picked=False)
        audit["draw"] = np.random.default_rng([seed, int(about, 16)]).random(len(audit))
        for name in class_names:
            audit[f"P({name})"] = np.where(audit["label"].eq(name), TRUST, (1 - TRUST) / max(len(class_names) - 1, 1))
        audit.attrs |= {"about": about, "drawn": {}}
    larger = _enlarged(audit, detectors, unsafe_classes=unsafe_classes, budget=budget)
    if larger["picked"].sum() > audit["picked"].sum() or not larger["stratum"].equals(audit["stratum"]):
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        larger.attrs = audit.attrs | {"drawn": audit.attrs["drawn"] | {now: list(detectors)}}
        runs.write_table(larger, table)
    return larger


def _enlarged(
    audit: pd.DataFrame, detectors: Mapping[str, pd.DataFrame], *, unsafe_classes: Sequence[str], budget: int
) -> pd.DataFrame:
    labels = audit.set_index("path")["label"]
    disputed = [is_wrong(some, labels, unsafe_classes=unsafe_classes).to_numpy() for some in detectors.values()]
    fresh = np.any(disputed, axis=0) & audit["stratum"].eq(AGREEMENT)
    audit = audit.assign(stratum=audit["stratum"].mask(fresh, f"disagreement {audit['stratum'].nunique()}"))
    audit["order"] = audit.groupby("stratum")["draw"].rank().astype(int) - 1
    size, had = audit["stratum"].value_counts(), audit.groupby("stratum")["picked"].sum()
    apart = size.drop(AGREEMENT, errors="ignore")
    quota = np.minimum(apart, np.ceil(budget * 2 / 3 * apart / max(apart.sum(), 1)))
    quota[AGREEMENT] = min(size.get(AGREEMENT, 0), max(budget - quota.sum(), 0))
    quota = np.maximum(quota, had.reindex(quota.index).fillna(0))
    return audit.assign(picked=audit["order"].lt(audit["stratum"].map(quota)))
