"""Decisions applied to folders: whatever happens on the way, no file is lost, doubled or overwritten, and all can go back."""

import contextlib
import errno
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image

from nsfwlib.data import folder_scan
from nsfwlib.files import file_path
from nsfwlib.labels import folders, journal, moves
from nsfwlib.labels.moves import opened

MTIME = 1_500_000_000_123_456_789

SIX = {
    "porn/a.jpg": "sexy",  # the name is taken there
    "porn/set 1/b.jpg": "sexy",
    "sexy/a.jpg": "keep",
    "sexy/c.jpg": "neutral",  # a class without a folder yet
    "drawings/d.jpg": "drop",
    "drawings/e.jpg": "",
}
SIX_AFTER = {
    "data/sexy/a.from-porn.jpg",
    "data/sexy/set 1/b.jpg",
    "data/sexy/a.jpg",
    "data/neutral/c.jpg",
    "data_dropped/drawings/d.jpg",
    "data/drawings/e.jpg",
}


def write(path, data=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.fsencode(path.name) + os.fsencode(path.parent.name) if data is None else data)
    os.utime(path, ns=(MTIME, MTIME))


def table_of(data_dir):
    table = folder_scan.scan(data_dir, workers=0, progress=False)
    return table.assign(problem=table["problem"].replace("not an image", ""))


def decide(table, decision_of):
    rows = [
        (sha, decision_of[path])
        for path, sha in zip(table["path"], table["sha256"], strict=True)
        if decision_of.get(path)
    ]
    return pd.DataFrame(rows, columns=["sha256", "decision"], dtype=str)


def make(root, decision_of=SIX):
    """Files that hold their own names below root/data → images table, decisions."""
    for path in decision_of:
        write(root / "data" / path, path.encode())
    table = table_of(root / "data")
    return table, decide(table, decision_of)


def apply(root, table, decided, **options):
    options = {"dry_run": False, "images": table, "progress": False, **options}
    return folders.apply_decisions(root / "data", decided, **options)


def roll_back(root, name="data_moves.jsonl"):
    return folders.roll_back(root / name, progress=False)


def state(root, *, logs=False):
    """Everything below root: names as bytes, contents, rights, and times of files."""
    found = {}
    for path in sorted(root.rglob("*")):
        if "_moves.jsonl" in path.name and not logs:
            continue
        status = path.lstat()
        content = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else "folder"
        mtime_ns = 0 if content == "folder" else status.st_mtime_ns
        found[os.fsencode(path.relative_to(root))] = (content, mtime_ns, stat.S_IMODE(status.st_mode))
    return found


def files(root):
    found = (path for path in root.rglob("*") if not path.is_dir() and "_moves.jsonl" not in path.name)
    return {path.relative_to(root).as_posix() for path in found}


def contents(root):
    return Counter((root / path).read_bytes() for path in files(root))


@pytest.fixture
def six(tmp_path):
    return tmp_path, *make(tmp_path)


# --- the plan


def test_a_dry_run_plans_everything_and_touches_nothing(six):
    root, table, decided = six
    before = state(root, logs=True)
    plan = apply(root, table, decided, dry_run=True).set_index("path")
    assert state(root, logs=True) == before
    assert plan.loc["porn/a.jpg", ["action", "target", "reason"]].tolist() == [
        "move",
        "sexy/a.from-porn.jpg",
        "decided: sexy; a.jpg is taken",
    ]
    assert plan.loc["porn/set 1/b.jpg", "target"] == "sexy/set 1/b.jpg"
    assert plan.loc["sexy/a.jpg", ["action", "reason"]].tolist() == ["unchanged", "the given label was confirmed"]
    assert plan.loc["sexy/c.jpg", "reason"] == "decided: neutral; a new folder"
    assert plan.loc["drawings/d.jpg", "action"] == "drop"
    assert plan.loc["drawings/e.jpg", "reason"] == "no decision"


def test_what_was_planned_is_what_is_done(six):
    root, table, decided = six
    plan = apply(root, table, decided, dry_run=True)
    done = apply(root, table, decided)
    pd.testing.assert_frame_equal(done.drop(columns="done"), plan)
    assert done["done"].tolist() == (plan["action"] != "unchanged").tolist()
    assert files(root) == SIX_AFTER
    for row in done[done["done"]].itertuples():
        assert file_path(root / "data", row.target).read_bytes() == file_path(Path(), row.path).as_posix().encode()


def test_without_a_table_the_folders_are_scanned_and_the_journal_is_read(tmp_path):
    for name, grey in (("porn/a.png", 10), ("sexy/b.png", 200)):
        (tmp_path / "data" / name).parent.mkdir(parents=True)
        Image.new("L", (32, 32), grey).save(tmp_path / "data" / name)
    sha256 = hashlib.sha256((tmp_path / "data/porn/a.png").read_bytes()).hexdigest()
    journal.append_decisions(tmp_path / "decisions.csv", {"sha256": sha256, "decision": "sexy"})
    done = folders.apply_decisions(tmp_path / "data", tmp_path / "decisions.csv", dry_run=False, progress=False)
    assert done["action"].tolist() == ["move", "unchanged"]
    assert (tmp_path / "data/sexy/a.png").exists()


def test_splits_stay_as_they_are(tmp_path):
    table, decided = make(tmp_path, {"train/porn/a.jpg": "sexy", "val/porn/x/b.jpg": "sexy", "test/sexy/c.jpg": "drop"})
    apply(tmp_path, table, decided)
    assert files(tmp_path) == {"data/train/sexy/a.jpg", "data/val/sexy/x/b.jpg", "data_dropped/test/sexy/c.jpg"}


def test_no_decision_leads_into_a_hidden_folder_of_a_class_called_test(tmp_path):
    table, decided = make(tmp_path, {"test/a.jpg": "", "test/.thumbs/b.jpg": "", "porn/2024/d.jpg": "test"})
    apply(tmp_path, table, decided)
    assert files(tmp_path) == {"data/test/a.jpg", "data/test/.thumbs/b.jpg", "data/test/2024/d.jpg"}


def test_files_move_in_the_layout_that_the_scan_was_told(tmp_path):
    make(tmp_path, {"test/sets/a.jpg": "", "train/sets/b.jpg": ""})
    for layout, expected in (("classes", "train/sets/a.jpg"), ("splits", "test/train/a.jpg")):
        table = folder_scan.scan(tmp_path / "data", workers=0, progress=False, layout=layout).assign(problem="")
        plan = apply(tmp_path, table, decide(table, {"test/sets/a.jpg": "train"}), dry_run=True).set_index("path")
        assert plan.loc["test/sets/a.jpg", "target"] == expected


def test_a_decision_moves_every_exact_copy_and_merges_none(tmp_path):
    for path in ("porn/a.jpg", "sexy/a.jpg", "porn/x/a.jpg", "neutral/a.jpg"):
        write(tmp_path / "data" / path, b"same")
    table = table_of(tmp_path / "data")
    apply(tmp_path, table, decide(table, {"porn/a.jpg": "sexy"}))
    assert files(tmp_path / "data/sexy") == {"a.jpg", "a.from-porn.jpg", "x/a.jpg", "a.from-neutral.jpg"}


def test_a_taken_name_that_is_taken_too_is_numbered(tmp_path):
    names = {"porn/a.jpg": "sexy", "sexy/a.jpg": "", "sexy/a.from-porn.jpg": "", "sexy/a.from-porn.2.jpg": ""}
    plan = apply(tmp_path, *make(tmp_path, names)).set_index("path")
    assert plan.loc["porn/a.jpg", "target"] == "sexy/a.from-porn.3.jpg"
    assert sum(contents(tmp_path).values()) == 4


def test_two_files_that_want_the_same_new_name_both_get_one(tmp_path):
    apply(tmp_path, *make(tmp_path, {"porn/a.jpg": "sexy", "hentai/a.jpg": "sexy", "sexy/b.jpg": ""}))
    assert files(tmp_path / "data") == {"sexy/a.jpg", "sexy/a.from-porn.jpg", "sexy/b.jpg"}


@pytest.mark.parametrize("decision", ["keep", "unsure", "escalate"])
def test_only_a_class_or_drop_moves_a_file(tmp_path, decision):
    plan = apply(tmp_path, *make(tmp_path, {"porn/a.jpg": decision, "sexy/b.jpg": ""}))
    assert plan["action"].tolist() == ["unchanged"] * 2
    assert files(tmp_path / "data") == {"porn/a.jpg", "sexy/b.jpg"}


@pytest.mark.parametrize("label", ["../outside", "..", "a/b", ".hidden", "/etc"])
def test_a_label_that_is_no_folder_name_goes_nowhere(tmp_path, label):
    table, decided = make(tmp_path, {"porn/a.jpg": label, "sexy/b.jpg": ""})
    assert "cannot be the name" in apply(tmp_path, table, decided)["reason"][0]
    assert "cannot be the name" in apply(tmp_path, table, decided, mode="copy", out_dir=tmp_path / "out")["reason"][0]
    assert files(tmp_path) == {"data/porn/a.jpg", "data/sexy/b.jpg", "out/sexy/b.jpg"}


def test_broken_files_can_be_dropped_but_not_relabelled_and_screened_ones_stay(tmp_path):
    table, decided = make(tmp_path, {"porn/a.jpg": "drop", "porn/b.jpg": "sexy", "porn/c.jpg": "drop", "sexy/d": ""})
    table["problem"] = ["truncated", "truncated", "screened", ""]
    plan = apply(tmp_path, table, decided)
    assert plan["action"].tolist() == ["drop", "unchanged", "unchanged", "unchanged"]
    assert plan["reason"][1:3].tolist() == ["truncated", "screened"]


def test_renamed_classes_keep_their_folders(tmp_path):
    make(tmp_path, {"pron/a.jpg": "", "Sexy/b.jpg": ""})
    table = folder_scan.scan(tmp_path / "data", workers=0, progress=False, class_map={"pron": "porn", "Sexy": "sexy"})
    table["problem"] = ""
    plan = apply(tmp_path, table, decide(table, {"pron/a.jpg": "sexy", "Sexy/b.jpg": "sexy"})).set_index("path")
    assert plan.loc["pron/a.jpg", "target"] == "Sexy/a.jpg"
    assert plan.loc["Sexy/b.jpg", "action"] == "unchanged"


# --- and back


def test_rolling_back_restores_names_bytes_times_and_folders(six):
    root, table, decided = six
    before = state(root)
    apply(root, table, decided)
    assert state(root) != before
    back = roll_back(root)
    assert back["done"].tolist() == [True] * 4
    assert state(root) == before
    assert roll_back(root).empty


def test_a_second_apply_does_nothing_and_a_changed_decision_moves_on_from_where_the_file_is(six):
    root, table, decided = six
    before = state(root)
    apply(root, table, decided)
    assert not apply(root, table, decided)["done"].any()
    changed = decided.replace({"decision": {"sexy": "drawings"}})
    apply(root, table, changed)
    assert {"data/drawings/a.from-porn.jpg", "data/drawings/set 1/b.jpg"} <= files(root)
    apply(root, table_of(root / "data"), decided)
    roll_back(root)
    assert state(root) == before


def test_log_and_data_can_be_moved_together_before_rolling_back(six):
    root, table, decided = six
    before = state(root)
    apply(root, table, decided)
    moved = root.with_name(root.name + "_elsewhere")
    root.rename(moved)
    roll_back(moved)
    assert state(moved) == before


def test_what_was_changed_since_stays_and_the_rest_goes_back(six):
    root, table, decided = six
    apply(root, table, decided)
    (root / "data/sexy/set 1/b.jpg").write_bytes(b"edited")
    (root / "data/porn/a.jpg").write_bytes(b"a new file of that name")
    (root / "data/neutral/c.jpg").unlink()
    with pytest.warns(UserWarning, match="3 of 4 files stay"):
        back = roll_back(root).set_index("path")
    reasons = {Path(path).name: reason for path, reason in back["reason"].items()}
    assert "bytes are not those" in reasons["b.jpg"]
    assert "taken" in reasons["a.from-porn.jpg"]
    assert "vanished" in reasons["c.jpg"]
    assert reasons["d.jpg"] == ""
    assert (root / "data/porn/a.jpg").read_bytes() == b"a new file of that name"
    assert (root / "data/sexy/a.from-porn.jpg").read_bytes() == b"porn/a.jpg"


NAMES = ["a.jpg", "A.jpg", "a.from-porn.jpg", "b", "x/a.jpg", "x/y/a.b.c", "two\nlines.jpg", "back\\slash.jpg"]
NAMES += ["not utf8 \udcff.jpg", "日本語 ✨.jpg", "ends ", "\u202etxt.jpg", "-rf", '"q".jpg', "a\\xff.jpg"]
TREES = st.dictionaries(
    st.tuples(st.sampled_from(["porn", "sexy", "neutral \udcfe"]), st.sampled_from(NAMES)),
    st.integers(0, 5),
    min_size=1,
)
DECISIONS = st.dictionaries(
    st.integers(0, 5), st.sampled_from(["porn", "sexy", "neutral \\xfe", "new", "drop", "keep", "unsure", "escalate"])
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(tree=TREES, decisions=DECISIONS, splits=st.booleans(), exdev=st.booleans())
def test_any_tree_under_any_decisions_loses_nothing_and_comes_back_to_the_byte(tree, decisions, splits, exdev):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        root, splits_of = Path(folder), (lambda content: f"{('train', 'test')[content % 2]}/" if splits else "")
        for (label, name), content in tree.items():
            write(root / "data" / f"{splits_of(content)}{label}/{name}", b"%d" % content)
        table, before = table_of(root / "data"), state(root)
        sha256 = {n: hashlib.sha256(b"%d" % n).hexdigest() for n in decisions}
        decided = pd.DataFrame({"sha256": sha256.values(), "decision": decisions.values()}, dtype=str)
        if exdev:
            patch.setattr(os, "link", across_file_systems(os.link))
        patch.setattr(os, "fsync", lambda fd: None)
        was = contents(root)
        plan = apply(root, table, decided)
        assert contents(root) == was
        for row in plan.itertuples():
            place = file_path(root / "data", row.target or row.path)
            content = int(place.read_bytes())
            moves = decisions.get(content, "keep") not in ("keep", "unsure", "escalate")
            assert (
                not moves
                or (
                    "data_dropped"
                    if decisions[content] == "drop"
                    else os.fsdecode(decisions[content].encode().replace(b"\\xfe", b"\xfe"))
                )
                in place.parts
            )
        assert not apply(root, table_of(root / "data"), decided)["done"].any() if files(root / "data") else True
        roll_back(root)
        assert state(root) == before


# --- obstacles


def across_file_systems(link):
    """As if every folder were a disk of its own; only links within one folder work."""

    def limited(src, dst, **options):
        if Path(src).parent != Path(dst).parent:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return link(src, dst, **options)

    return limited


def failing(function, number, *, times=1, when=lambda *args: True):
    """`function`, but it raises OSError `number` the first `times` times that `when(*args)` holds."""
    left = [times]

    def replacement(*args, **options):
        if left[0] and when(*args):
            left[0] -= 1
            raise OSError(number, os.strerror(number))
        return function(*args, **options)

    return replacement


EXDEV, NO_LINKS = across_file_systems(os.link), failing(os.link, errno.EPERM, times=-1)


def test_across_file_systems_bytes_times_and_rights_survive_both_ways(six, monkeypatch):
    root, table, decided = six
    (root / "data/porn/a.jpg").chmod(0o440)
    before = state(root)
    monkeypatch.setattr(os, "link", across_file_systems(os.link))
    assert apply(root, table, decided)["done"].sum() == 4
    assert files(root) == SIX_AFTER
    status = (root / "data/sexy/a.from-porn.jpg").stat()
    assert (status.st_mtime_ns, stat.S_IMODE(status.st_mode)) == (MTIME, 0o440)
    roll_back(root)
    assert state(root) == before


@pytest.mark.skipif(
    not Path("/dev/shm").is_dir() or Path("/dev/shm").stat().st_dev == Path(tempfile.gettempdir()).stat().st_dev,
    reason="no second file system at hand",
)
def test_a_quarantine_on_another_disk_works_both_ways(six):
    root, table, decided = six
    before = state(root)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        apply(root, table, decided, quarantine=Path(other) / "dropped")
        dropped = Path(other) / "dropped/drawings/d.jpg"
        assert (dropped.read_bytes(), dropped.stat().st_mtime_ns) == (b"drawings/d.jpg", MTIME)
        assert "data/drawings/d.jpg" not in files(root)
        roll_back(root)
        assert list(Path(other).iterdir()) == []
    assert state(root) == before


def test_a_disk_that_rounds_times_takes_nothing_from_those_restored(six, monkeypatch):
    root, table, decided = six
    before = state(root)
    monkeypatch.setattr(os, "link", across_file_systems(os.link))
    apply(root, table, decided)
    for path in SIX_AFTER:
        os.utime(root / path, (MTIME // 10**9, MTIME // 10**9))
    roll_back(root)
    moved = {path: decision for path, decision in SIX.items() if decision not in ("", "keep")}
    for path in moved:
        assert state(root)[os.fsencode(f"data/{path}")] == before[os.fsencode(f"data/{path}")]


def test_a_copy_that_differs_from_its_original_is_never_used(six, monkeypatch):
    root, table, decided = six
    before = state(root / "data")
    monkeypatch.setattr(os, "link", across_file_systems(os.link))
    monkeypatch.setattr(shutil, "copyfileobj", lambda source, target, size: target.write(b"rotten"))
    with pytest.warns(UserWarning, match="differs from the original"):
        done = apply(root, table, decided)
    assert not done["done"].any()
    assert {name: entry[0] for name, entry in state(root / "data").items() if entry[0] != "folder"} == {
        name: entry[0] for name, entry in before.items() if entry[0] != "folder"
    }


def test_where_hard_links_are_unknown_files_are_renamed_and_nothing_is_overwritten(six, monkeypatch):
    root, table, decided = six
    before = state(root)
    monkeypatch.setattr(os, "link", failing(os.link, errno.EPERM, times=-1))
    apply(root, table, decided)
    assert files(root) == SIX_AFTER
    (root / "data/porn/a.jpg").write_bytes(b"in the way")
    with pytest.warns(UserWarning, match="taken its new name"):
        roll_back(root)
    assert (root / "data/porn/a.jpg").read_bytes() == b"in the way"
    (root / "data/porn/a.jpg").unlink()
    roll_back(root)
    assert state(root) == before


def test_a_file_that_appears_between_plan_and_move_is_not_overwritten(six, monkeypatch):
    root, table, decided = six
    link = os.link

    def race(src, dst, **options):
        if not os.path.lexists(dst):
            Path(dst).write_bytes(b"somebody else's")
        return link(src, dst, **options)

    monkeypatch.setattr(os, "link", race)
    with pytest.warns(UserWarning, match="taken its new name by now"):
        done = apply(root, table, decided)
    assert not done["done"].any()
    assert contents(root)[b"somebody else's"] == 4
    assert set(SIX) <= {path.removeprefix("data/") for path in files(root)}


def test_changed_vanished_and_linked_files_each_say_why_and_the_rest_is_done(tmp_path):
    names = ["changed", "vanished", "link", "fine"]
    table, decided = make(tmp_path, {**{f"porn/{name}.jpg": "sexy" for name in names}, "sexy/x": ""})
    porn = tmp_path / "data/porn"
    (porn / "changed.jpg").write_bytes(b"other")
    (porn / "vanished.jpg").unlink()
    (porn / "link.jpg").rename(tmp_path / "target")
    (porn / "link.jpg").symlink_to("../../target")
    with pytest.warns(UserWarning, match="3 of 4 files stay"):
        done = apply(tmp_path, table, decided).set_index("path")
    assert "bytes are not those" in done.loc["porn/changed.jpg", "reason"]
    assert "vanished" in done.loc["porn/vanished.jpg", "reason"]
    assert "is a link" in done.loc["porn/link.jpg", "reason"]
    assert done.index[done["done"]].tolist() == ["porn/fine.jpg"]
    assert (porn / "link.jpg").is_symlink()


def test_a_read_only_file_moves_and_a_folder_without_rights_keeps_its_files(six, monkeypatch):
    root, table, decided = six
    (root / "data/sexy/c.jpg").chmod(0o400)
    protected = failing(os.unlink, errno.EACCES, times=-1, when=lambda path, **_: "porn" in Path(path).parts)
    monkeypatch.setattr(os, "unlink", protected)  # root may do anything, so the refusal is played
    with pytest.warns(UserWarning, match="Permission denied"):
        done = apply(root, table, decided).set_index("path")
    assert done["done"].to_dict() == {
        "drawings/d.jpg": True, "drawings/e.jpg": False, "porn/a.jpg": False,
        "porn/set 1/b.jpg": False, "sexy/a.jpg": False, "sexy/c.jpg": True,
    }  # fmt: skip
    assert files(root / "data/porn") == {"a.jpg", "set 1/b.jpg"}
    assert files(root / "data/sexy") == {"a.jpg"}


@pytest.mark.parametrize("n", range(1, 14))
def test_a_full_disk_ends_the_call_with_a_sentence_and_the_next_one_goes_on(tmp_path, monkeypatch, n):
    table, decided = make(tmp_path)
    before = state(tmp_path)
    room, write = [n - 1], os.write

    def fill(fd, data):
        room[0] -= 1
        if room[0] < 0:
            write(fd, data[: 10 if room[0] == -1 else 0])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data)

    with monkeypatch.context() as patch, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        patch.setattr(os, "write", fill)
        try:
            done = apply(tmp_path, table, decided)
            assert "disk is full" in str(caught[0].message)
            assert done["reason"].str.contains("disk is full").any()
        except OSError as error:  # not even the log's head could be written
            assert n <= 2 and "The move log cannot be written: the disk is full" in str(error)
    log = tmp_path / "data_moves.jsonl"
    assert log.read_bytes()[-1:] in (b"", b"\n")
    assert Counter(dict.fromkeys(contents(tmp_path), 1)) == Counter(path.encode() for path in SIX)
    apply(tmp_path, table, decided)
    assert files(tmp_path) == SIX_AFTER
    roll_back(tmp_path)
    assert state(tmp_path) == before


def test_a_disk_that_fills_up_while_copying_leaves_no_half_file(six, monkeypatch):
    root, table, decided = six
    monkeypatch.setattr(os, "link", across_file_systems(os.link))

    def fill(source, target, size):
        target.write(source.read(3))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", fill)
        with pytest.warns(UserWarning, match="disk is full"):
            done = apply(root, table, decided)
    assert done.loc[done["action"] != "unchanged", "reason"].str.contains("disk is full").all()
    assert files(root) == {f"data/{path}" for path in SIX}
    apply(root, table, decided)
    assert files(root) == SIX_AFTER


def test_linked_class_folders_are_followed(tmp_path):
    make(tmp_path, {"porn/a.jpg": "sexy"})
    (tmp_path / "big disk").mkdir()
    (tmp_path / "data/sexy").symlink_to("../big disk")
    table = table_of(tmp_path / "data")
    before = state(tmp_path)
    apply(tmp_path, table, decide(table, {"porn/a.jpg": "sexy"}))
    assert (tmp_path / "big disk/a.jpg").exists()
    roll_back(tmp_path)
    assert state(tmp_path) == before


@pytest.mark.parametrize("end", ["old", "new"])
def test_what_somebody_changed_after_an_interrupted_copy_stays_beside_the_other(six, end):
    root, table, decided = six
    moments = iter(range(1, 100))
    while set(contents(root).values()) == {1}:  # until one file lies at its old and at its new place
        crash(lambda: apply(root, table, decided), next(moments), link=EXDEV)
        for part in root.rglob(".*.part"):
            part.unlink()
    twice = next(data for data, count in contents(root).items() if count == 2)
    old = root / "data" / twice.decode()
    (new,) = (root / path for path in files(root) if (root / path).read_bytes() == twice and root / path != old)
    (old if end == "old" else new).write_bytes(b"edited")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        done = apply(root, table, decided)
    assert contents(root) == Counter([b"edited", *(path.encode() for path in SIX)])
    assert any("bytes are not those" in str(warning.message) for warning in caught) == (end == "old")
    assert done["done"].sum() >= (end == "new")


def test_every_step_is_on_disk_in_the_log_before_it_happens(six, monkeypatch):
    root, table, decided = six
    log, synced, seen = root / "data_moves.jsonl", [""], []

    def sync(fd, fsync=os.fsync):
        fsync(fd)
        synced[0] = log.read_text() if stat.S_ISREG(os.fstat(fd).st_mode) else synced[0]

    def step(src, dst, link=os.link, **options):
        seen.append(json.dumps(str(Path(dst).relative_to(root))) in synced[0])
        return link(src, dst, **options)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "link", step)
    apply(root, table, decided)
    roll_back(root)
    assert seen == [True] * 8


def test_nothing_more_is_tried_while_a_step_cannot_be_settled(six, monkeypatch):
    root, table, decided = six
    before = state(root)
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", failing(os.unlink, errno.EROFS, times=-1))
        with pytest.warns(UserWarning, match="4 of 4 files stay"):
            done = apply(root, table, decided)
        assert done["reason"].str.startswith("not reached").sum() == 3
    apply(root, table, decided)
    assert files(root) == SIX_AFTER
    roll_back(root)
    assert state(root) == before


# --- kills


class Killed(BaseException):
    pass


def crash(call, n, *, half=False, link=None):
    """Run `call` until its n-th change to the disk; from then on nothing more changes, as after kill -9.

    Handlers and clean-up still run, but every change they try fails, too. With `half`, if that change is a write,
    half of it is still written. Returns the name of the change that did not happen, "" if there was no n-th.
    """
    count, last = 0, ""

    def counted(name, function):
        def replacement(*args, **options):
            nonlocal count, last
            count += 1
            if count == n:
                last = name
                if half and name == "write":
                    function(args[0], args[1][: len(args[1]) // 2])
            if count >= n:
                raise Killed
            return function(*args, **options)

        return replacement

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "link", link or os.link)
        for name in ("link", "unlink", "rename", "symlink", "mkdir", "rmdir", "write", "ftruncate", "utime", "fsync"):
            patch.setattr(os, name, counted(name, getattr(os, name)))
        patch.setattr(shutil, "copyfileobj", counted("copyfileobj", shutil.copyfileobj))
        with contextlib.suppress(Killed):
            call()
    return last


def every_crash(tmp_path, prepare, call, check, *, link=None):
    """`check` each root that `prepare` made and `call`, killed at one moment, left; returns how many moments."""
    for n in itertools.count(1):
        for half in (False, True):
            root = tmp_path / f"{n}-{half}"
            root.mkdir()
            prepared = prepare(root)
            last = crash(lambda root=root, prepared=prepared: call(root, prepared), n, half=half, link=link)
            check(root, prepared)
            shutil.rmtree(root)
            if last != "write":
                break
        if not last:
            return n


three_kinds = pytest.mark.parametrize(
    "link",
    [None, pytest.param(EXDEV, marks=pytest.mark.full), NO_LINKS],
    ids=["one disk", "many disks", "no hard links"],
)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@three_kinds
@pytest.mark.parametrize("then", ["finish", "roll back"])
def test_killed_before_any_change_to_the_disk_an_apply_can_be_finished_or_rolled_back(tmp_path, quick, link, then):
    table, decided = make(tmp_path / "table")

    def prepare(root):
        shutil.copytree(tmp_path / "table/data", root / "data")
        return state(root)

    def check(root, before):
        assert set(contents(root)) >= {path.encode() for path in SIX}
        if then == "finish":
            apply(root, table, decided)
            assert files(root) == SIX_AFTER
            assert contents(root) == Counter(path.encode() for path in SIX)
        if (root / "data_moves.jsonl").exists():
            roll_back(root)
        assert state(root) == before

    moments = every_crash(tmp_path, prepare, lambda root, _: apply(root, table, decided), check, link=link)
    assert moments > 25


@three_kinds
def test_killed_before_any_change_to_the_disk_a_roll_back_can_be_finished(tmp_path, quick, link):
    table, decided = make(tmp_path / "table")

    def prepare(root):
        shutil.copytree(tmp_path / "table/data", root / "data")
        before = state(root)
        apply(root, table, decided)
        return before

    def check(root, before):
        roll_back(root)
        assert state(root) == before

    assert every_crash(tmp_path, prepare, lambda root, _: roll_back(root), check, link=link) > 25


@pytest.mark.parametrize("mode", ["copy", "link"])
def test_killed_before_any_change_to_the_disk_an_export_can_be_finished(tmp_path, quick, mode):
    three = dict(list(SIX.items())[:3])
    table, decided = make(tmp_path, three)

    def export(root, _):
        apply(tmp_path, table, decided, mode=mode, out_dir=root / "out")

    def check(root, _):
        export(root, None)
        assert contents(root) == Counter(path.encode() for path in three)
        roll_back(root, "out_moves.jsonl")
        assert files(root) == set()

    assert every_crash(tmp_path, lambda root: None, export, check) > 12


def kill_again_and_again(root, count, kills):
    """Apply decisions to `count` files and roll back, under kill -9; run in a process without threads, as it forks."""
    chance = random.Random(0)
    labels = ["porn", "sexy", "neutral", "drawings", "drop"]
    names = {f"{labels[i % 4]}/{i % 7}/{i // 2}.jpg": chance.choice(labels) for i in range(count)}
    table, decided = make(root, names)
    before, log = state(root), root / "data_moves.jsonl"
    calls = itertools.cycle([lambda: apply(root, table, decided), lambda: roll_back(root)])
    call = next(calls)
    while kills:
        pid = os.fork()
        if not pid:
            call()
            os._exit(0)
        size = log.stat().st_size if log.exists() else 0
        goal = size + chance.randrange(1, 10_000)
        while not any(ended := os.waitpid(pid, os.WNOHANG)) and (not log.exists() or log.stat().st_size < goal):
            time.sleep(0.0005)
        if any(ended):
            assert ended == (pid, 0), "failed"
            call = next(calls)
            continue
        time.sleep(chance.random() * 0.002)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        kills -= 1
        if kills % 25 == 0:
            assert set(contents(root)) == {path.encode() for path in names}, "lost"
    apply(root, table, decided)
    assert contents(root) == Counter(path.encode() for path in names), "lost or doubled"
    roll_back(root)
    assert state(root) == before, "not as before"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize(("count", "kills"), [(300, 25), pytest.param(2000, 100, marks=pytest.mark.full)])
def test_kills_at_random_moments_lose_and_double_nothing_of_many_files(tmp_path, count, kills):
    call = f"t.kill_again_and_again(pathlib.Path(sys.argv[1]), {count}, {kills})"
    script = f"import sys, pathlib, test_folders as t; {call}"
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


# --- exports


def test_copies_and_links_leave_the_source_alone_and_hold_what_can_be_trained_on(six):
    root, table, decided = six
    table.loc[table["path"] == "drawings/e.jpg", "problem"] = "truncated"
    before = state(root / "data")
    for mode in ("copy", "link"):
        done = apply(root, table, decided, mode=mode, out_dir=root / mode)
        assert files(root / mode) == {"sexy/a.jpg", "sexy/set 1__b.jpg", "sexy/a.from-sexy.jpg", "neutral/c.jpg"}
        assert done.set_index("path").loc["drawings/e.jpg", "reason"] == "truncated"
    assert (root / "link/neutral/c.jpg").is_symlink() and not (root / "copy/neutral/c.jpg").is_symlink()
    assert contents(root / "link") == contents(root / "copy")
    assert (root / "copy/neutral/c.jpg").stat().st_mtime_ns == MTIME
    assert state(root / "data") == before


def test_exported_names_are_valid_unicode_and_the_innermost_folder_is_the_class(tmp_path):
    names = {"train/porn/x/y/\udcff.jpg": "", "val/sexy/two\nlines.jpg": "", "test/porn/back\\slash.jpg": ""}
    for name in names:
        write(tmp_path / "data" / name)
    apply(tmp_path, table_of(tmp_path / "data"), None, mode="copy", out_dir=tmp_path / "out")
    assert files(tmp_path / "out") == {
        "train/porn/x__y__%xff.jpg",
        "val/sexy/two%u000alines.jpg",
        "test/porn/back%%slash.jpg",
    }


def test_an_export_follows_the_splits_of_the_table(six):
    root, table, decided = six
    table["split"] = ["train", "val", "train", "test", "train", ""]
    plan = apply(root, table, decided, mode="copy", out_dir=root / "out").set_index("path")
    assert {path.split("/")[0] for path in files(root / "out")} == {"train", "val", "test"}
    assert plan.loc["sexy/c.jpg", "reason"] == "has no split, others have"


def test_an_escalated_picture_is_never_exported(tmp_path):
    table, decided = make(tmp_path, {"porn/a.jpg": "escalate", "sexy/b.jpg": ""})
    apply(tmp_path, table, decided, mode="link", out_dir=tmp_path / "out")
    assert files(tmp_path / "out") == {"sexy/b.jpg"}


def test_an_export_goes_on_is_rolled_back_and_is_never_mixed_with_anything_else(six):
    root, table, decided = six
    before = state(root)
    out = {"mode": "copy", "out_dir": root / "out"}
    apply(root, table, decided, **out)
    assert not apply(root, table, decided, **out)["done"].any()
    with pytest.raises(ValueError, match=r"other labels: now porn/a.jpg belongs into .*/out/neutral"):
        apply(root, table, decided.replace({"decision": {"sexy": "neutral"}}), **out)
    roll_back(root, "out_moves.jsonl")
    assert state(root) == before
    write(root / "out/mine.txt")
    with pytest.raises(ValueError, match="holds something else"):
        apply(root, table, decided, **out)


def test_an_export_whose_file_was_edited_keeps_it_on_roll_back(six):
    root, table, decided = six
    for mode in ("copy", "link"):
        apply(root, table, decided, mode=mode, out_dir=root / mode)
        (root / mode / "neutral/c.jpg").unlink()
        (root / mode / "neutral/c.jpg").write_bytes(b"edited")
        with pytest.warns(UserWarning, match="1 of 5 files stay"):
            roll_back(root, f"{mode}_moves.jsonl")
        assert files(root / mode) == {"neutral/c.jpg"}


def test_keras_reads_an_export_with_the_decided_labels(tmp_path):
    from keras.utils import image_dataset_from_directory

    for i, name in enumerate(["porn/x/a.png", "porn/b.png", "sexy/c.png", "sexy/y/\udcff.png"]):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        with (tmp_path / "data" / name).open("wb") as file:
            Image.new("RGB", (32, 32), (50 * i, 0, 0)).save(file, "PNG")
    table = folder_scan.scan(tmp_path / "data", workers=0, progress=False)
    apply(tmp_path, table, decide(table, {"porn/b.png": "sexy"}), mode="copy", out_dir=tmp_path / "out")
    read = image_dataset_from_directory(
        tmp_path / "out", image_size=(32, 32), batch_size=4, shuffle=False, verbose=False
    )
    ((pixels, labels),) = read
    assert read.class_names == ["porn", "sexy"]
    assert dict(zip(pixels.numpy()[:, 0, 0, 0].tolist(), labels.numpy().tolist(), strict=True)) == {
        0: 0,
        50: 1,
        100: 1,
        150: 1,
    }


# --- parameters and the log


def test_wrong_parameters_say_what_fits(six):
    root, table, decided = six
    with pytest.raises(ValueError, match=r"mode must be one of move, copy, link. Received: 'mvoe'"):
        apply(root, table, decided, mode="mvoe")
    with pytest.raises(ValueError, match="out_dir goes with"):
        apply(root, table, decided, mode="copy")
    with pytest.raises(ValueError, match="out_dir goes with"):
        apply(root, table, decided, out_dir=root / "out")
    for inside in ({"quarantine": root / "data/dropped"}, {"mode": "copy", "out_dir": root / "data/out"}):
        with pytest.raises(ValueError, match="would become a class"):
            apply(root, table, decided, **inside)
    for missing in (root / "typo.csv", None):
        with pytest.raises(FileNotFoundError, match="nothing to apply"):
            apply(root, table, missing)
    with pytest.raises(FileNotFoundError, match="no move log"):
        folders.roll_back(root / "typo.jsonl")
    assert files(root) == {f"data/{path}" for path in SIX}


def test_a_file_of_another_kind_is_not_taken_for_a_log(six):
    root, table, decided = six
    write(root / "notes.txt", b"mine\n")
    for dry_run in (True, False):
        with pytest.raises(ValueError, match="should be a move log"):
            apply(root, table, decided, log=root / "notes.txt", dry_run=dry_run)
    assert (root / "notes.txt").read_bytes() == b"mine\n"


@pytest.mark.parametrize("began", [False, True])
def test_a_log_of_an_earlier_version_is_settled_and_rolled_back(six, began):
    root, table, decided = six
    before, log = state(root), root / "data_moves.jsonl"
    apply(root, table, decided)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [{**line, "was": [7, 1, MTIME]} if "how" in line else line for line in lines[1:]]  # as 0.1.0 had it
    lines = [lines[0], {"times": {"data": MTIME, "data/porn": MTIME}}, *steps]
    if began:  # killed after a copy was made to another disk, before the original was removed
        lines[-1] = {"copied": [7, 1, MTIME]}
        src, dst = (root / lines[-2][end] for end in ("src", "dst"))
        shutil.copy2(dst, src)
    log.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert roll_back(root)["done"].tolist() == [True] * (4 - began)
    assert state(root) == before


def test_two_programs_cannot_use_one_log_at_a_time(six, monkeypatch):
    root, table, decided = six
    monkeypatch.setattr(moves, "LOCK_SECONDS", 0.05)
    with opened(root / "data_moves.jsonl"), pytest.raises(TimeoutError, match="Another program"):
        apply(root, table, decided)


@pytest.mark.parametrize("sub", ["", "set/"])
def test_a_file_where_a_folder_is_needed_stops_one_step_and_no_other(tmp_path, sub):
    images, decided = make(tmp_path, {f"porn/{sub}a.jpg": "neutral", "porn/b.jpg": "sexy", "sexy/c.jpg": "keep"})
    before = files(tmp_path)
    write(tmp_path / "data" / "neutral", b"a file")
    with pytest.warns(UserWarning, match="1 of 2 files stay"):
        done = apply(tmp_path, images, decided)
    assert done.set_index("path")["done"].to_dict() == {
        f"porn/{sub}a.jpg": False,
        "porn/b.jpg": True,
        "sexy/c.jpg": False,
    }
    assert "a file lies where its folder should be" in done.loc[done["decision"] == "neutral", "reason"].item()
    with pytest.warns(UserWarning, match="stay"):
        apply(tmp_path, images, decided)  # and again
    assert roll_back(tmp_path)["done"].all()
    (tmp_path / "data" / "neutral").unlink()
    assert files(tmp_path) == before
    assert apply(tmp_path, images, decided)["done"].sum() == 2


@pytest.mark.parametrize("stem", ["a" * 251, "é" * 125, "\n" * 251])
def test_a_name_as_long_as_a_file_system_takes_is_cut_where_something_is_added(tmp_path, stem):
    label = "p" * 200
    for folder in (label, "sexy"):
        write(tmp_path / "data" / folder / f"{stem}.jpg", folder.encode())
        write(tmp_path / "data" / folder / ("s" * 100) / f"{stem}.png", folder.encode() + b"s")
    images = table_of(tmp_path / "data")
    decided = decide(images, {path: "sexy" for path in images["path"] if path.startswith("p")})
    done = apply(tmp_path, images, decided)
    assert done["done"].sum() == 2 and not done["reason"].str.contains("too long for").any()
    assert roll_back(tmp_path)["done"].all()
    copied = folders.apply_decisions(tmp_path / "data", decided, images=images, mode="copy", out_dir=tmp_path / "out",
                                     dry_run=False, progress=False)  # fmt: skip
    assert copied["done"].all() and copied["target"].is_unique
