"""The decisions journal: whatever happens to the process, a decision that was acknowledged is never lost."""

import csv
import io
import os
import re
import subprocess
import sys
import warnings

import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from nsfwlib.labels import journal, records
from nsfwlib.labels.current import Replay, current_labels

NASTY = [
    'porn/it\'s "quoted".jpg',
    "porn/two\nlines\n.jpg",
    "porn/ends\n",
    'porn/\r\n,";\t.jpg',
    "porn/<script>alert(1)</script>.jpg",
    "porn/not utf8 \udcff.jpg",
    "porn/=cmd|' /C calc'!A0.jpg",
    "porn/日本語 ✨.jpg",
]


def one_line(name):
    """As the journal holds it: a record is one line."""
    return name.replace("\n", "\\u000a").replace("\r", "\\u000d")


def row(sha="a" * 64, decision="keep", **more):
    return {"sha256": sha, "path": "porn/a.jpg", "given_label": "porn", "decision": decision, **more}


def append(path, line):
    """The size of the file afterwards."""
    journal.append_decisions(path, line)
    return path.stat().st_size


def words(replay):
    return {sha: word for sha in "abcd" if (word := replay.decision(sha))}


def test_a_missing_journal_reads_as_an_empty_table(tmp_path):
    assert journal.read_journal(tmp_path / "decisions.csv").columns.tolist() == list(records.COLUMNS)
    assert journal.decisions_in_force(tmp_path / "decisions.csv").columns.tolist() == list(journal.IN_FORCE)
    assert list(tmp_path.iterdir()) == []


def test_lines_come_back_as_they_were_written_with_one_header(tmp_path):
    path = tmp_path / "sub" / "decisions.csv"
    journal.append_decisions(path, row(reviewer="Ada", suggested="sexy", score=0.25, seconds=1.5))
    journal.append_decisions(path, [row("b", "drop"), row("c", "unsure")])
    lines = journal.read_journal(path)
    assert lines["decision"].tolist() == ["keep", "drop", "unsure"]
    assert lines.loc[0, ["reviewer", "suggested", "score", "seconds"]].tolist() == ["Ada", "sexy", 0.25, 1.5]
    assert lines["action"].nunique() == 2
    assert path.read_text().count("given_label") == 1
    assert (pd.Timestamp.now("UTC") - lines["time"]).max() < pd.Timedelta("1min")


@pytest.mark.parametrize("name", NASTY, ids=range(len(NASTY)))
def test_every_file_name_survives(tmp_path, name):
    path = tmp_path / "decisions.csv"
    for sha in "abc":
        journal.append_decisions(path, row(sha, path=name, reviewer=name))
    lines = journal.read_journal(path)
    assert lines["path"].tolist() == [one_line(name)] * 3
    assert lines["reviewer"].tolist() == [one_line(name)] * 3
    assert path.read_bytes().count(b"\n") == 4


def test_the_last_decision_on_a_picture_is_in_force(tmp_path):
    path = tmp_path / "decisions.csv"
    journal.append_decisions(path, [row("a", "keep"), row("b", "drop"), row("a", "sexy")])
    assert dict(journal.decisions_in_force(path)[["sha256", "decision"]].to_numpy()) == {"a": "sexy", "b": "drop"}


def test_an_undone_action_is_not_in_force_until_it_is_redone(tmp_path):
    path = tmp_path / "decisions.csv"
    journal.append_decisions(path, row("a", "keep", action="1"))
    journal.append_decisions(path, [row("a", "drop", action="2"), row("b", "drop", action="2")])
    journal.append_decisions(path, {"kind": "undo", "action": "2"})
    assert journal.decisions_in_force(path)["decision"].tolist() == ["keep"]
    journal.append_decisions(path, {"kind": "redo", "action": "2"})
    assert journal.decisions_in_force(path)["decision"].tolist() == ["drop", "drop"]


def test_an_unknown_key_is_refused(tmp_path):
    with pytest.raises(ValueError, match="given_lable"):
        journal.append_decisions(tmp_path / "decisions.csv", {"given_lable": "porn"})


def test_another_csv_file_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "other.csv"
    path.write_text("path,label\na,b\n")
    for call in (lambda: journal.read_journal(path), lambda: journal.append_decisions(path, row())):
        with pytest.raises(ValueError, match="decisions journal"):
            call()
    assert path.read_text() == "path,label\na,b\n"


@settings(max_examples=40, deadline=None)
@given(
    names=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), min_size=1, max_size=5),
    data=st.data(),
)
def test_after_a_cut_at_any_byte_the_whole_lines_are_kept(tmp_path_factory, names, data):
    path = tmp_path_factory.mktemp("cut") / "decisions.csv"
    sizes = [append(path, row(str(i), path=name)) for i, name in enumerate(names)]
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    if cut not in (0, whole.index(b"\n") + 1, *sizes):
        with pytest.warns(UserWarning, match="unfinished"):
            lines = journal.read_journal(path)
    else:
        lines = journal.read_journal(path)
    kept = sum(size <= cut for size in sizes)
    assert lines["path"].tolist() == [*map(one_line, names[:kept])]
    assert path.read_bytes() == whole[:cut]
    journal.append_decisions(path, row("new"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        contents = journal.read_journal(path)["sha256"].tolist()
    mended = len(contents) - kept - 1  # where all but the end of the line was there, it has one now
    assert contents == [*map(str, range(kept + mended)), "new"] and mended in (0, 1)
    assert not (mended and caught) and path.read_bytes()[:cut] == whole[:cut]


def simple_replay(steps):
    """The state after these steps, told in the plainest way: sha256 → decision."""
    void = set()
    for kind, action, _, _ in steps:
        if kind != "decision":
            (void.add if kind == "undo" else void.discard)(action)
    return {sha: decision for kind, action, sha, decision in steps if kind == "decision" and action not in void}


STEP = st.tuples(
    st.sampled_from(["decision", "decision", "undo", "redo"]),
    st.sampled_from("123456"),
    st.sampled_from("abc"),
    st.sampled_from(["keep", "drop", "porn"]),
)


@pytest.mark.filterwarnings("ignore:.*unfinished")
@settings(max_examples=60, deadline=None)
@given(steps=st.lists(STEP, max_size=12), data=st.data())
def test_replay_equals_the_state_after_a_cut_at_any_byte(tmp_path_factory, steps, data):
    path = tmp_path_factory.mktemp("replay") / "decisions.csv"
    sizes = [append(path, row(sha, decision, kind=kind, action=action)) for kind, action, sha, decision in steps]
    if steps:
        cut = data.draw(st.integers(0, sizes[-1]))
        path.write_bytes(path.read_bytes()[:cut])
        steps = steps[: sum(size <= cut for size in sizes)]
    expected = simple_replay(steps)
    assert dict(journal.decisions_in_force(path)[["sha256", "decision"]].to_numpy()) == expected
    replay = Replay(path)
    replay.catch_up()
    assert words(replay) == expected


def test_a_torn_journal_is_read_without_its_tail_nor_a_lock_and_stays_as_it_is(tmp_path, monkeypatch):
    path = tmp_path / "decisions.csv"
    journal.append_decisions(path, row("a"))
    whole = path.read_bytes()
    path.write_bytes(whole + b'"2026')

    def refuse(*_, **__):
        raise PermissionError("read-only file system")

    monkeypatch.setattr(records.filelock.FileLock, "acquire", refuse)
    with pytest.warns(UserWarning, match="unfinished as a killed program leaves them: 1\\. All others stay"):
        assert journal.read_journal(path)["sha256"].tolist() == ["a"]
    assert path.read_bytes() == whole + b'"2026'


@pytest.mark.parametrize("damage", [b'"mended","by hand"\n', b"<<<<<<< HEAD\n", b'"2026-01-01","x","decision\n' * 3])
def test_lines_that_are_no_records_are_left_out_and_told(tmp_path, damage):
    path = tmp_path / "decisions.csv"
    journal.append_decisions(path, [row("a"), row("b")])
    path.write_bytes(path.read_bytes() + damage)
    journal.append_decisions(path, row("c"))
    replay = Replay(path)
    for read in (replay.catch_up, lambda: journal.read_journal(path)):
        with pytest.warns(UserWarning, match=f"The first: {re.escape(repr(damage[:20])[:-1])}"):
            read()
    assert journal.read_journal(path)["sha256"].tolist() == ["a", "b", "c"]
    assert words(replay) == {"a": "keep", "b": "keep", "c": "keep"}
    assert damage in path.read_bytes()


def test_a_journal_saved_by_a_spreadsheet_is_still_read(tmp_path):
    path = tmp_path / "decisions.csv"
    journal.append_decisions(path, [row("a"), row("b", "drop")])
    path.write_bytes(path.read_bytes().replace(b'"', b"").replace(b"\n", b"\r\n"))
    journal.append_decisions(path, row("c"))
    assert journal.read_journal(path)["sha256"].tolist() == ["a", "b", "c"]


def test_appending_to_a_torn_journal_ends_its_last_line_first(tmp_path):
    path = tmp_path / "decisions.csv"
    journal.append_decisions(path, row("a"))
    with path.open("ab") as file:
        file.write(b'"2026-01-01","x","decision","1","b","tw')
    replay = Replay(path)
    with pytest.warns(UserWarning, match="unfinished"):
        replay.catch_up()
    torn = path.read_bytes()
    journal.append_decisions(path, row("c"))
    for read in (replay.catch_up, lambda: journal.read_journal(path)):
        with pytest.warns(UserWarning, match="unfinished"):
            read()
    assert journal.read_journal(path)["sha256"].tolist() == ["a", "c"] and words(replay) == {"a": "keep", "c": "keep"}
    assert path.read_bytes().startswith(torn + b"\n")


def test_a_header_that_was_cut_is_completed(tmp_path):
    path = tmp_path / "decisions.csv"
    journal.append_decisions(path, row("a"))
    whole = path.read_bytes()
    for size in range(whole.index(b"\n") + 1):
        path.write_bytes(whole[:size])
        journal.append_decisions(path, row("b"))
        assert journal.read_journal(path)["sha256"].tolist() == ["b"]
    path.write_bytes(b"one line of something else")
    with pytest.raises(ValueError, match="decisions journal"):
        journal.append_decisions(path, row("b"))
    assert path.read_bytes() == b"one line of something else"


def test_two_writers_at_once_lose_nothing(tmp_path):
    path = tmp_path / "decisions.csv"
    code = (
        "import sys; from nsfwlib import labels\n"
        "for i in range(60): labels.append_decisions(sys.argv[1], {'sha256': sys.argv[2] + str(i), 'path': 'a\\nb', 'decision': 'keep'})"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), who]) for who in "xy"]
    assert [w.wait(60) for w in writers] == [0, 0]
    lines = journal.read_journal(path)
    assert sorted(lines["sha256"]) == sorted(f"{who}{i}" for who in "xy" for i in range(60))


def test_a_failed_write_leaves_the_journal_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "decisions.csv"
    journal.append_decisions(path, row("a"))
    before = path.read_bytes()

    def full(fd, data, write=os.write):
        write(fd, data[:20])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match=r"decisions.csv cannot be written: No space left on device.*Free some space"):
        journal.append_decisions(path, row("b"))
    assert path.read_bytes() == before


def two_hundred(path):
    for start in range(0, 200, 20):
        journal.append_decisions(path, [row(str(i), path="a\nb.jpg") for i in range(start, start + 20)])
    return path.read_bytes()


@pytest.mark.parametrize("where", ["field", "end of the line", "beginning of the line", "last line"])
def test_a_stray_quote_costs_one_record_and_no_other(tmp_path, where):
    path = tmp_path / "decisions.csv"
    records = two_hundred(path).split(b'\n"2')
    k = -1 if where == "last line" else 2
    old, new = {"end of the line": (b',""', b',"""'), "beginning of the line": (b"0", b'"0')}.get(
        where, (b"keep", b'ke"ep')
    )
    records[k] = (
        new.join(records[k].rsplit(old, 1)) if where != "beginning of the line" else records[k].replace(old, new, 1)
    )
    path.write_bytes(b'\n"2'.join(records))
    lost = "199" if k == -1 else "1"
    with pytest.warns(UserWarning, match=f'damaged.*: 1\\. All others stay.*,"{lost}",'):
        lines = journal.read_journal(path)
    assert lines["sha256"].tolist() == [str(i) for i in range(200) if str(i) != lost]
    journal.append_decisions(path, row("new"))
    with pytest.warns(UserWarning, match="damaged"):
        assert len(journal.read_journal(path)) == 200


def as_spreadsheets_write(data, *, delimiter=",", bom=True):
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter).writerows(csv.reader(io.StringIO(data.decode(), newline="")))
    return b"\xef\xbb\xbf" * bom + out.getvalue().encode()


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("bom", [True, False])
def test_what_spreadsheets_write_is_read_and_written_on(tmp_path, delimiter, bom):
    path = tmp_path / "decisions.csv"
    journal.append_decisions(path, [row("a", path="a,;\n2.jpg", score=0.5), row("b", "drop")])
    several_lines = path.read_bytes().replace(rb"\u000a", b"\n")  # as other programs may have records
    saved = as_spreadsheets_write(several_lines, delimiter=delimiter, bom=bom)
    path.write_bytes(saved.replace(b"0.5", b"0,5") if delimiter == ";" else saved)
    journal.append_decisions(path, row("c"))
    journal.append_decisions(path, row("d"))
    lines = journal.read_journal(path)
    assert lines["sha256"].tolist() == ["a", "b", "c", "d"] and lines["path"][0] == "a,;\n2.jpg"
    assert lines["score"][0] == 0.5 and not path.with_name("decisions.csv.torn").exists()
    replay = Replay(path)
    replay.catch_up()
    assert words(replay) == {"a": "keep", "b": "drop", "c": "keep", "d": "keep"}


@pytest.mark.parametrize("word", ["Keep", ' "b"', "ESCALATE", "keep ", "undo", "", "'porn'"])
def test_a_word_that_is_neither_decision_nor_class_is_refused_by_its_line(tmp_path, word):
    path = tmp_path / "decisions.csv"
    journal.append_decisions(path, [row("a"), row("b", "portrait of a cat"), row("c", "drop")])
    before = path.read_bytes()
    with pytest.raises(ValueError, match="decision should be one of"):
        journal.append_decisions(path, row("d", word))
    assert path.read_bytes() == before
    path.write_bytes(before.replace(b'"drop"', b'"' + word.replace('"', '""').encode() + b'"'))
    for read in (journal.decisions_in_force, lambda path: Replay(path).catch_up()):
        with pytest.raises(ValueError, match="record 4: decision should be one of keep, drop, unsure, escalate"):
            read(path)


def test_after_a_merge_the_later_decision_is_in_force_and_a_warning_says_so(tmp_path):
    path = tmp_path / "decisions.csv"
    days = [("a", "keep", 1), ("a", "drop", 4), ("b", "drop", 5), ("a", "unsure", 2), ("b", "keep", 3)]
    journal.append_decisions(path, [row(sha, word, time=f"2026-01-0{day}T12:00:00+00:00") for sha, word, day in days])
    journal.append_decisions(path, row("c", "drop", time=""))
    expected = {"a": "drop", "b": "drop", "c": "drop"}
    with pytest.warns(UserWarning, match="times run backwards at record 5"):
        assert dict(journal.decisions_in_force(path)[["sha256", "decision"]].to_numpy()) == expected
    replay = Replay(path)
    for _ in range(2):
        with pytest.warns(UserWarning, match="times run backwards"):
            replay.catch_up()
        assert words(replay) == expected
        journal.append_decisions(path, row("b", "unsure", time="2026-01-05T06:00:00+00:00"))  # of the same day


@pytest.mark.filterwarnings("error")
def test_a_writer_whose_clock_is_behind_is_not_overruled(tmp_path, monkeypatch):
    path = tmp_path / "decisions.csv"
    ahead = (pd.Timestamp.now("UTC") + pd.Timedelta("1h")).isoformat()
    journal.append_decisions(path, row("a", "keep", time=ahead))
    journal.append_decisions(path, row("a", "drop"))
    assert journal.decisions_in_force(path)["decision"].tolist() == ["drop"]


def test_a_session_reads_on_where_it_stopped_and_anew_where_the_file_is_another(tmp_path):
    path = tmp_path / "decisions.csv"
    replay = Replay(path)
    assert not replay.catch_up()
    journal.append_decisions(path, row("a"))
    assert [*replay.catch_up()] == ["a"]
    journal.append_decisions(path, [row("b", "drop"), row("c", "porn")])
    assert [*replay.catch_up()] == ["b", "c"] and not replay.catch_up()
    path.write_bytes(path.read_bytes().replace(b'"porn"', b'"sexy"').replace(b'"drop"', b'"cats"'))
    assert {*replay.catch_up()} == {"a", "b", "c"} and words(replay) == {"a": "keep", "b": "cats", "c": "sexy"}
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"cats"', b'"Drop"'))
    for _ in range(2):
        with pytest.raises(ValueError, match="Received: 'Drop'"):
            replay.catch_up()
    assert words(replay) == {"a": "keep", "b": "cats", "c": "sexy"}
    path.write_bytes(whole)
    half = records.encode([["2999-01-01T00:00:00+00:00", *["x"] * 10]], ",")
    with path.open("ab") as file:
        file.write(half[:20])
    with pytest.warns(UserWarning, match="unfinished"):
        replay.catch_up()
    assert words(replay) == {"a": "keep", "b": "cats", "c": "sexy"}


def test_two_spellings_of_a_journal_share_one_lock_and_a_link_stays_one(tmp_path):
    path, link = tmp_path / "decisions.csv", tmp_path / "link.csv"
    two_hundred(path)
    link.symlink_to(path)
    with records.locked(path), pytest.raises(TimeoutError), records.locked(link, 0.1):
        pass
    path.write_bytes(path.read_bytes().replace(b"keep", b'ke"ep', 1))
    with pytest.warns(UserWarning, match="damaged"):
        assert len(journal.read_journal(link)) == 199
    journal.append_decisions(link, row("b"))
    with pytest.warns(UserWarning, match="damaged"):
        assert link.is_symlink() and len(journal.read_journal(path)) == 200


def test_a_journal_of_other_data_says_that_none_of_its_decisions_matches(tmp_path):
    table = pd.DataFrame({"sha256": ["a", "b"], "given_label": ["porn", "sexy"], "problem": ["", ""]})
    journal.append_decisions(tmp_path / "j.csv", [row(content, "porn") for content in "xyz"])
    with pytest.warns(UserWarning, match=r"j\.csv: 0 of 3 decisions match these files"):
        assert current_labels(table, tmp_path / "j.csv").tolist() == ["porn", "sexy"]


def test_a_slip_of_the_pen_is_no_class_and_its_record_is_named(tmp_path):
    path = tmp_path / "decisions.csv"
    table = pd.DataFrame({"sha256": ["a", "b"], "given_label": ["porn", "sexy"], "problem": ["", ""]})
    journal.append_decisions(path, [row("a", "sexy"), row("elsewhere", "cats"), row("b", "pron")])
    with pytest.raises(ValueError, match=r"record 4: decision .* classes porn, sexy.*'pron'.*05_score.* again in 03_c"):
        current_labels(table, path)
    assert current_labels(table, path, new_classes=["pron"]).tolist() == ["sexy", "pron"]
    journal.append_decisions(path, row("b", "porn"))
    assert current_labels(table, path).tolist() == ["sexy", "porn"]
