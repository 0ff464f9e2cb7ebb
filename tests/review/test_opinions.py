"""Several reviewers: blind second looks, kappa, disagreements and who has the last word."""

import uuid

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.metrics import cohen_kappa_score

from nsfwlib.labels import journal, records
from nsfwlib.labels.current import Replay
from nsfwlib.review import opinions
from nsfwlib.review.session import ReviewSession

NAMES = ["cat", "dog", "emu"]


def make_table(n=40, *, group_size=1, split="train"):
    return pd.DataFrame(
        {
            "path": [f"{NAMES[i % 3]}/{i}.jpg" for i in range(n)],
            "sha256": [f"{i:064x}" for i in range(n)],
            "given_label": [NAMES[i % 3] for i in range(n)],
            "group": [i // group_size for i in range(n)],
            "split": split,
        }
    )


def line(content, decision, who, kind="decision", given="cat", action=None):
    action = action or uuid.uuid4().hex
    return {
        "sha256": content, "decision": decision, "reviewer": who, "kind": kind, "given_label": given, "action": action,
    }  # fmt: skip


@pytest.fixture
def path(tmp_path):
    return tmp_path / "j.csv"


def write(path, *lines):
    for one in lines:
        journal.append_decisions(path, one)
    return journal.read_journal(path)


def decide_all(path, table, who="Ada", decision="keep"):
    rows = table.to_dict("records")
    journal.append_decisions(path, [line(row["sha256"], decision, who, given=row["given_label"]) for row in rows])
    return journal.read_journal(path)


def second(path, table, who="Bob", **options):
    queue = opinions.second_queue(table, journal.read_journal(path), reviewer=who, share=1.0, **options)
    return ReviewSession(queue, path, class_names=NAMES, images=table, reviewer=who, mode="second")


# --- the label in force


def test_a_second_look_changes_no_label_and_a_resolution_does(path):
    write(path, line("1", "dog", "Ada"), line("1", "emu", "Bob", "second"))
    assert journal.decisions_in_force(path)["decision"].tolist() == ["dog"]
    write(path, line("1", "emu", "Cem", "resolution"))
    assert journal.decisions_in_force(path)["decision"].tolist() == ["emu"]


def test_the_last_of_decisions_and_resolutions_is_in_force_and_each_can_be_undone(path):
    resolution = line("1", "emu", "Cem", "resolution")
    write(path, line("1", "dog", "Ada"), resolution, line("1", "cat", "Ada"))
    assert journal.decisions_in_force(path)["decision"].tolist() == ["cat"]
    journal.append_decisions(
        path, {"kind": "undo", "action": journal.read_journal(path)["action"].iloc[-1], "reviewer": "Ada"}
    )
    assert journal.decisions_in_force(path)["decision"].tolist() == ["emu"]
    journal.append_decisions(path, {"kind": "undo", "action": resolution["action"], "reviewer": "Cem"})
    assert journal.decisions_in_force(path)["decision"].tolist() == ["dog"]


steps = st.lists(
    st.tuples(
        st.sampled_from(["decision", "audit", "second", "resolution", "undo", "redo", "something new"]),
        st.sampled_from(["Ada", "Bob"]),
        st.sampled_from("12"),
        st.sampled_from([*NAMES, "keep", "drop"]),
        st.integers(0, 5),
    ),
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(steps=steps)
def test_replayed_line_by_line_a_journal_of_every_kind_says_the_same_as_read_whole(tmp_path_factory, steps):
    lines, actions = [], ["none"]
    for kind, who, content, decision, back in steps:
        if kind in ("undo", "redo"):
            lines.append(line("", "", who, kind, action=actions[-1 - back % len(actions)]))
        else:
            lines.append(line(content, decision, who, kind))
            actions.append(lines[-1]["action"])
    path = tmp_path_factory.mktemp("replay") / "journal.csv"
    rows = [[str(said.get(name, "")) for name in records.COLUMNS] for said in lines]
    path.write_bytes(records.encode([records.COLUMNS, *rows], ","))
    table, replay = journal.read_journal(path), Replay(path, reviewer="Bob")
    replay.catch_up()
    looks = journal.standing(table, "second").query("reviewer == 'Bob'")
    resolutions, audits = journal.standing(table, "resolution"), journal.standing(table, "audit")
    for kinds, said in [
        (journal.LABELLING, journal.decisions_in_force(path)),
        (["second"], looks),
        (["resolution"], resolutions),
        (["audit"], audits),
    ]:
        last = dict(said[["sha256", "decision"]].to_numpy())
        assert {sha: word for sha in table["sha256"].unique() if (word := replay.decision(sha, kinds))} == last


# --- who sees what again


def test_the_share_drawn_for_a_second_look_is_the_same_whoever_asks_and_whenever(path):
    table = make_table(400)
    early = decide_all(path, table.head(200))
    some = opinions.second_queue(table, early, reviewer="Bob", share=0.25)
    late = decide_all(path, table.tail(200))
    bob, cem = (opinions.second_queue(table, late, reviewer=who, share=0.25) for who in ("Bob", "Cem"))
    pd.testing.assert_frame_equal(bob, cem)
    assert set(some["sha256"]) == set(bob["sha256"]) & set(table["sha256"].head(200))
    assert 0.17 < len(bob) / 400 < 0.33
    assert not set(bob["sha256"]) - set(opinions.second_queue(table, late, reviewer="Bob", share=0.5)["sha256"])


def test_whole_groups_are_drawn(path):
    table = make_table(300, group_size=3)
    queue = opinions.second_queue(table, decide_all(path, table), reviewer="Bob", share=0.3)
    assert queue.groupby("group").size().eq(3).all() and 0 < len(queue) < 300


def test_own_decisions_test_rows_and_what_was_resolved_or_escalated_do_not_come_again(path):
    table = make_table(6)
    table.loc[5, "split"] = "test"
    contents = table["sha256"]
    decide_all(path, table)
    lines = write(
        path, line(contents[0], "dog", "Bob"), line(contents[1], "escalate", "Ada"),
        line(contents[2], "dog", "Cem", "resolution"),
    )  # fmt: skip
    queue = opinions.second_queue(table, lines, reviewer="Bob", share=1.0)
    assert sorted(queue["sha256"]) == [contents[3], contents[4]]


def test_audit_answers_of_every_split_are_seen_again_up_to_a_number_a_split(path):
    table = make_table(200)
    table.loc[100:, "split"] = "test"
    rows = table.to_dict("records")
    lines = write(path, *[[line(row["sha256"], "cat", "Ada", "audit") for row in rows]])
    queue = opinions.second_queue(table, lines, reviewer="Bob", share=0.0)
    assert queue["split"].value_counts().to_dict() == {"train": 60, "test": 60}
    assert opinions.second_queue(table, lines, reviewer="Ada", share=1.0).empty


def test_a_second_reviewer_sees_neither_decision_nor_label_and_goes_on_after_a_break(path):
    table = make_table(6)
    decide_all(path, table, decision="dog")
    session = second(path, table)
    page = session.page(0)
    assert page["decision"].eq("").all() and page["given"].eq("").all() and session.pred_probs is None
    session.decide(page["path"][0], "emu")
    again = second(path, table)
    assert again.progress()["decided"] == 1 and again.decision(page["sha256"][0]) == "emu"
    assert journal.decisions_in_force(path)["decision"].eq("dog").all(), "the label in force is the first one"
    assert again.undo() == [page["path"][0]] and again.progress()["decided"] == 0


def test_a_second_look_that_escalates_hides_the_picture_at_once(path):
    table = make_table(4)
    decide_all(path, table)
    session = second(path, table)
    session.decide(session.queue["path"][0], "escalate")
    content = session.queue["sha256"][0]
    assert session.is_escalated(session.queue["path"][0])
    assert journal.decisions_in_force(path).set_index("sha256").loc[content, "decision"] == "escalate"
    assert opinions.standing_opinions(journal.read_journal(path)).empty


def test_a_second_look_needs_a_name(path):
    with pytest.raises(ValueError, match="pass reviewer='your name'"):
        second(path, make_table(), who="")


# --- how far they agree


def test_the_first_answer_is_the_decision_that_stood_before_the_second_look(path):
    undone = line("1", "cat", "Ada")
    lines = write(
        path, line("1", "dog", "Ada"), undone, {"kind": "undo", "action": undone["action"], "reviewer": "Ada"},
        line("1", "emu", "Bob", "second"), line("1", "emu", "Ada"), line("2", "dog", "Ada"),
        line("3", "keep", "Ada", given="emu"), line("3", "unsure", "Bob", "second"),
    )  # fmt: skip
    answers = opinions.standing_opinions(lines)
    assert answers[["sha256", "reviewer", "answer"]].to_numpy().tolist() == [
        ["1", "Ada", "dog"], ["3", "Ada", "emu"], ["1", "Bob", "emu"],
    ]  # fmt: skip
    assert opinions.agreement(lines).loc[0, "pictures"] == 1


def test_kappa_is_that_of_scikit_learn(rng):
    a, b = rng.choice(NAMES, 300), rng.choice(NAMES, 300)
    b = np.where(rng.random(300) < 0.6, a, b)
    found = opinions.cohens_kappa(a, b)
    assert found["kappa"] == pytest.approx(cohen_kappa_score(a, b))
    assert found["kappa_low"] < found["kappa"] < found["kappa_high"]


def test_the_interval_of_kappa_covers_the_true_one():
    covered = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        p = [0.6, 0.3, 0.1]
        a = rng.choice(NAMES, 80, p=p)
        b = np.where(rng.random(80) < 0.7, a, rng.choice(NAMES, 80, p=p))
        found = opinions.cohens_kappa(a, b, seed=seed)
        covered.append(found["kappa_low"] <= 0.7 <= found["kappa_high"])
    assert 0.92 <= np.mean(covered) <= 0.995


def test_full_agreement_on_few_pictures_is_no_certainty_and_near_duplicates_count_less():
    a = ["cat", "dog"] * 10
    alone = opinions.cohens_kappa(a, a)
    alike = opinions.cohens_kappa(a, a, groups=[i // 4 for i in range(20)])
    assert alone["kappa"] == alone["kappa_high"] == 1 and alike["kappa_low"] < alone["kappa_low"] < 0.95


def test_without_answers_or_variety_kappa_is_unknown():
    assert np.isnan([*opinions.cohens_kappa([], []).values()]).all()
    assert np.isnan([*opinions.cohens_kappa(["cat"] * 30, ["cat"] * 30).values()]).all()


def test_kappa_is_never_said_to_be_below_minus_one():
    found = opinions.cohens_kappa(["cat"] * 29 + ["dog"], ["cat"] * 30)
    assert -1 <= found["kappa_low"] <= found["kappa"] <= found["kappa_high"] <= 1


def test_of_three_reviewers_the_one_who_errs_is_known(path, rng):
    table, truth = make_table(200), np.arange(200) % 3
    for who, slips in {"Ada": 0.15, "Bob": 0.02, "Cem": 0.02}.items():
        said = np.where(rng.random(200) < slips, (truth + 1) % 3, truth)
        kind = "decision" if who == "Ada" else "second"
        write(path, [line(content, NAMES[i], who, kind) for content, i in zip(table["sha256"], said, strict=True)])
    found = opinions.skills(journal.read_journal(path), class_names=NAMES, images=table).set_index("reviewer")
    assert found["pictures"].eq(200).all() and found.loc["Ada", "high"] < found.loc[["Bob", "Cem"], "low"].min()
    assert found.loc["Ada", "low"] < 0.85 < found.loc["Ada", "high"]
    assert opinions.skills(journal.read_journal(path).head(200), class_names=NAMES).empty


# --- what becomes of disagreements


def test_a_disagreement_is_resolved_once_and_without_names(path):
    table = make_table(3)
    decide_all(path, table)
    looks = second(path, table)
    for where, answer in zip(table["path"], ["dog", "dog", "drop"], strict=True):
        looks.decide(where, answer)
    queue = opinions.disagreement_queue(table, journal.read_journal(path))
    assert queue["about"].tolist() == ["cat / dog", "drop / emu"]
    session = ReviewSession(queue, path, class_names=NAMES, images=table, reviewer="Cem", mode="disagreement")
    assert session.page(0)["decision"].eq("").all()
    session.decide(queue["path"][0], "dog")
    assert session.decision(queue["sha256"][0]) == "dog"
    assert journal.read_journal(path)["kind"].iloc[-1] == "resolution"
    assert journal.decisions_in_force(path).set_index("path").loc["cat/0.jpg", "decision"] == "dog"
    assert opinions.disagreement_queue(table, journal.read_journal(path))["about"].tolist() == ["drop / emu"]
    session.undo()
    assert len(opinions.disagreement_queue(table, journal.read_journal(path))) == 2
    assert journal.decisions_in_force(path).set_index("sha256").loc[queue["sha256"][0], "decision"] == "keep"


def test_work_done_counts_what_stands_by_person_and_kind(path):
    lines = write(
        path, line("1", "cat", "Ada", action="x"), line("1", "dog", "Ada"), line("2", "cat", "Ada", action="y")
    )
    lines = write(
        path,
        {"kind": "undo", "action": "y", "reviewer": "Ada"},
        line("1", "cat", "Bea", kind="second") | {"seconds": 90},
        *({"kind": "reveal", "sha256": content, "reviewer": "Bea"} for content in "1223"),
    )
    table = opinions.work_done(lines)
    assert table[["reveal", "revealed"]].to_numpy().tolist() == [[0, 0], [3, 1]], "of pictures, however often"
    assert table.loc["Ada", ["decision", "second", "minutes"]].tolist() == [1, 0, 0]
    assert table.loc["Bea", ["decision", "second", "minutes"]].tolist() == [0, 1, 1.5]
    assert opinions.work_done(lines[:0]).empty
