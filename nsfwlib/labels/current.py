"""Which label is in force? The given one, or what a person decided last."""

import warnings
from collections.abc import Collection
from pathlib import Path

import pandas as pd

from nsfwlib import runs
from nsfwlib.labels.journal import ACTIONS, decisions_in_force, refuse_class


def current_labels(
    table: pd.DataFrame, journal: Path | pd.DataFrame | None, *, new_classes: Collection[str] = ()
) -> pd.Series:
    """Given labels with decisions applied → Series with the table's index; NA where a row is out.

    Out are rows with a problem, without any label, and those dropped or escalated. "keep" and "unsure"
    leave the given label. A decision belongs to content: it applies to every row of that `sha256`. A warning says so
    where none of the decisions is on these pictures.

    Raises:
        ValueError: a decision in force on these pictures is a class that no folder of the table has and `new_classes`
            does not name, such as a slip of the pen; says which record.
    """
    labels = table["given_label"].where((table["problem"] == "") & (table["given_label"] != ""))
    if journal is None:
        return labels.rename("label")
    lines = journal if isinstance(journal, pd.DataFrame) else decisions_in_force(journal)
    decided = table["sha256"].map(lines.set_index("sha256")["decision"])
    decided = decided.where(table["problem"] == "")
    if len(lines) and not decided.notna().any():
        name = "the journal" if isinstance(journal, pd.DataFrame) else journal
        warnings.warn(f"{name}: 0 of {len(lines):,} decisions match these files. Is it of other data?", stacklevel=2)
    known = {*ACTIONS, *table["given_label"], *new_classes}
    unknown = decided[decided.notna() & ~decided.isin(known)]
    if len(unknown):
        refuse_class(journal, table.loc[unknown.index[0], "sha256"], unknown.iloc[0], known - {*ACTIONS, ""})
    changed = decided.notna() & ~decided.isin(["keep", "unsure"])
    labels = labels.mask(changed, decided)
    return labels.mask(decided.isin(["drop", "escalate"])).rename("label")


def what_changed(before: pd.Series, after: pd.Series) -> pd.DataFrame:
    """Numbers of pictures by label before (rows) and after (columns) review, changed ones only."""
    names = "(left out)"
    was, now = before.fillna(names), after.fillna(names)
    changed = was.ne(now)
    return pd.crosstab(was[changed], now[changed], rownames=["was"], colnames=["is"])


def journal_in_use(run_dir: Path, journal: Path) -> Path:
    """The journal that notebook 03 wrote to: that of the simulated reviewer in the run, or the real one."""
    record = Path(run_dir) / "cleansing.json"
    simulated = record.exists() and runs.read_json(record)["simulated"]
    return Path(run_dir) / "simulated_decisions.csv" if simulated else Path(journal)
