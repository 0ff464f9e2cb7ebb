"""Review sessions: which page comes next, what a decision means, and that nothing decided is ever lost."""

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from nsfwlib.labels import journal, neighbours
from nsfwlib.review.pages import error_probability
from nsfwlib.review.session import ACTIONS, ReviewSession

NAMES = ["cat", "dog", "emu"]


def make_queue(n=60, *, seed=0, copies=(), names=NAMES):
    """A queue with planted errors: suggestions are right for most of them, scores tell them apart fairly well."""
    rng = np.random.default_rng(seed)
    given_code = rng.integers(0, len(names), n)
    suggested = (given_code + rng.integers(1, len(names), n)) % len(names)
    wrong = rng.random(n) < 0.2
    score = np.clip(np.where(wrong, rng.normal(0.4, 0.4, n), rng.normal(-0.6, 0.3, n)), -1, 1)
    names = np.array(names, object)
    queue = pd.DataFrame(
        {
            "path": [f"{names[code]}/{i}.jpg" for i, code in enumerate(given_code)],
            "sha256": [f"{i:064x}" for i in range(n)],
            "given": names[given_code],
            "suggested": names[suggested],
            "score": score,
            "wrong": wrong,
        }
    )
    for copy, original in copies:
        queue.loc[copy, "sha256"] = queue.loc[original, "sha256"]
    return queue


@pytest.fixture
def queue():
    return make_queue()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "decisions.csv"


def open_session(queue, path, **options):
    return ReviewSession(queue, path, class_names=NAMES, **options)


def in_force(path):
    return dict(journal.decisions_in_force(path)[["sha256", "decision"]].to_numpy())


# --- pages ---


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(0, 50),
    size=st.integers(1, 12),
    seed=st.integers(0, 99),
    groups=st.integers(1, 50),
    control=st.integers(0, 4),
)
def test_every_row_is_on_one_page_and_a_page_holds_one_pair(n, size, seed, groups, control):
    queue = make_queue(n, seed=seed)
    queue["group"] = np.random.default_rng(seed).integers(0, groups, n)
    queue.loc[queue.index % 7 == 3, "score"] = np.nan
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(queue, Path(folder) / "j.csv", page_size=size, control_every=control)
    pages = [session.page(i) for i in range(session.n_pages)]
    assert sorted(path for page in pages for path in page["path"]) == sorted(queue["path"])
    assert all(1 <= len(page) <= size for page in pages)
    assert all(
        len(page[["given", "suggested"]].drop_duplicates()) == 1 for page in pages if not page["is_control"].any()
    )
    assert session.queue["path"].tolist() == [path for page in pages for path in page["path"]]


def test_the_page_with_the_most_expected_errors_comes_first(path):
    queue = make_queue(400)
    session = open_session(queue, path)
    p = [error_probability(session.page(i)).mean() for i in range(session.n_pages)]
    assert p == sorted(p, reverse=True)
    assert p[0] > 2 * p[-1]


def test_pages_lose_next_to_nothing_of_the_ranking(path):
    lost = []
    for seed in range(5):
        queue = make_queue(2000, seed=seed, names=["a", "b", "c", "d", "e"])
        session = ReviewSession(queue, path, class_names=["a", "b", "c", "d", "e"])
        ranked = queue.sort_values("score", ascending=False)["wrong"].to_numpy()
        budgets = [queue["wrong"].sum(), 2 * queue["wrong"].sum()]
        lost.append([(ranked[:b].sum() - session.queue["wrong"][:b].sum()) / budgets[0] for b in budgets])
    assert np.mean(lost, axis=0)[0] < 0.02
    assert np.mean(lost, axis=0)[1] < 0.005


def test_rows_without_a_score_come_last_and_are_not_dropped(queue, path):
    queue["score"] = queue["score"].clip(-0.9)
    queue.loc[:9, "score"] = np.nan
    session = open_session(queue, path)
    assert len(session.queue) == len(queue)
    assert set(session.queue["path"][-10:]) == set(queue["path"][:10])


def test_scores_of_any_scale_order_the_queue(queue, path):
    queue["score"] = 100 * queue["score"]
    session = open_session(queue, path)
    ranks = session.queue["score"].rank(ascending=False)
    assert ranks[:10].mean() < ranks[-10:].mean() / 3


def test_members_of_a_group_stand_side_by_side(path):
    queue = make_queue(40).assign(given="cat", suggested="dog")
    queue["group"] = np.arange(40) % 20
    session = open_session(queue, path, page_size=40)
    for i in range(session.n_pages):
        groups = session.page(i)["group"]
        assert (groups != groups.shift()).sum() == groups.nunique()


def test_an_empty_queue_is_a_finished_session(queue, path):
    session = open_session(queue[:0], path)
    assert session.n_pages == 0
    assert session.progress()["rows"] == 0
    assert session.pages().empty
    with pytest.raises(IndexError, match="0 pages"):
        session.page(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q: q.assign(split=["test"] + ["train"] * 59), "test split never enters.*first: 'dog/0.jpg'"),
        (lambda q: q.drop(columns="sha256"), "Missing: .'sha256'"),
        (lambda q: q.assign(path="a"), "one row a path"),
        (lambda q: q.assign(sha256=""), "needs its sha256"),
    ],
)
def test_a_queue_that_cannot_be_reviewed_is_refused(path, change, message):
    queue = make_queue()
    queue.loc[0, "path"] = "dog/0.jpg"
    with pytest.raises(ValueError, match=message):
        open_session(change(queue), path)


def test_a_class_called_like_a_decision_is_refused(queue, path):
    with pytest.raises(ValueError, match=r"Rename: .'drop'"):
        ReviewSession(queue, path, class_names=["cat", "drop"])


# --- decisions ---


def test_a_decision_is_in_the_journal_when_the_call_returns(queue, path):
    session = open_session(queue, path, reviewer="Ada")
    row = session.queue.iloc[0]
    session.decide(row["path"], "emu", seconds=2.5)
    line = journal.read_journal(path).iloc[0]
    assert line["reviewer"] == "Ada"
    assert line["decision"] == "emu"
    assert line["seconds"] == 2.5
    assert line["score"] == pytest.approx(row["score"], abs=1e-5)
    for column, name in {"sha256": "sha256", "path": "path", "given_label": "given", "suggested": "suggested"}.items():
        assert line[column] == row[name]


def test_what_is_no_decision_or_no_row_is_refused_and_not_written(queue, path):
    session = open_session(queue, path)
    with pytest.raises(ValueError, match=r"'cat', 'dog', 'emu', 'keep', 'drop', 'unsure', 'escalate'.*'bird'"):
        session.decide(queue["path"][0], "bird")
    with pytest.raises(KeyError, match="no/such"):
        session.decide("no/such.jpg", "keep")
    assert not path.exists()


def test_a_decision_holds_for_every_exact_copy(path):
    queue = make_queue(copies=[(1, 0)]).assign(given="cat")
    session = open_session(queue, path)
    session.decide(queue["path"][0], "dog")
    copy = session.page(session.page_of(queue["path"][1]))
    assert copy.set_index("path").loc[queue["path"][1], "decision"] == "dog"
    assert session.progress()["decided"] == 2


def test_copies_under_two_labels_need_an_explicit_class(path):
    queue = make_queue(copies=[(1, 0)])
    queue.loc[[0, 1], "given"] = ["cat", "dog"]
    session = open_session(queue, path)
    with pytest.raises(ValueError, match="two labels"):
        session.decide(queue["path"][0], "keep")
    session.decide(queue["path"][0], "dog")
    assert in_force(path) == {queue["sha256"][0]: "dog"}


def test_a_copy_outside_the_queue_counts_as_well(path):
    queue = make_queue()
    other = "dog" if queue["given"][0] != "dog" else "emu"
    images = pd.DataFrame(
        {"path": ["elsewhere.jpg"], "sha256": [queue["sha256"][0]], "given_label": [other], "split": ["val"]}
    )
    session = open_session(queue, path, images=images)
    with pytest.raises(ValueError, match="two labels"):
        session.decide(queue["path"][0], "keep")


def test_a_page_is_accepted_whole_but_for_its_exceptions(path):
    queue = make_queue(20).assign(given="cat", suggested="dog", score=np.linspace(0.9, 0.8, 20))
    session = open_session(queue, path, page_size=20)
    exception, skipped = session.queue["path"][3], session.queue["path"][5]
    session.decide(exception, "keep")
    page = session.accept_page(0, skip=[skipped], seconds=18)
    expected = {exception: "keep", skipped: ""}
    assert page["decision"].tolist() == [expected.get(path, "dog") for path in page["path"]]
    assert session.progress()["seconds"] == pytest.approx(18)
    assert journal.read_journal(path)["action"].nunique() == 2


def test_a_page_of_likely_right_labels_is_accepted_as_keep(path):
    queue = make_queue(10).assign(given="cat", suggested="dog", score=-0.5)
    session = open_session(queue, path)
    assert session.page_default(0) == "keep"
    session.accept_page(0)
    assert set(in_force(path).values()) == {"keep"}


def test_undo_takes_back_a_whole_page_and_redo_puts_it_back(queue, path):
    session = open_session(queue, path)
    session.decide(session.queue["path"][0], "unsure")
    before = in_force(path)
    paths = session.page(0)["path"].tolist()[1:]
    session.accept_page(0)
    after = in_force(path)
    assert sorted(session.undo()) == sorted(paths)
    assert in_force(path) == before
    session.redo()
    assert in_force(path) == after
    assert session.redo() == []


def test_a_reopened_session_goes_on_and_can_undo_what_came_before(queue, path):
    first = open_session(queue, path, reviewer="Ada")
    for i in range(5):
        first.decide(first.queue["path"][i], "keep")
    again = open_session(queue, path, reviewer="Ada")
    assert again.progress() == pytest.approx(first.progress())
    assert not set(again.page(again.first_open_page())["path"]) & set(first.queue["path"][:5])
    assert again.undo() == [first.queue["path"][4]]
    assert len(in_force(path)) == 4


def test_undo_leaves_the_decisions_of_others_alone(queue, path):
    ada, bob = (open_session(queue, path, reviewer=name) for name in ("Ada", "Bob"))
    ada.decide(queue["path"][0], "keep")
    bob.decide(queue["path"][1], "drop")
    assert ada.undo() == [queue["path"][0]]
    assert ada.undo() == []
    assert in_force(path) == {queue["sha256"][1]: "drop"}


def test_two_sessions_on_one_journal_see_each_other(queue, path):
    one, two = open_session(queue, path), open_session(queue, path)
    one.decide(queue["path"][0], "keep")
    two.decide(queue["path"][1], "drop")
    assert two.decision(queue["sha256"][0]) == "keep"
    assert two.progress()["decided"] == 2


def test_decisions_survive_renamed_and_moved_files(queue, path):
    open_session(queue, path).decide(queue["path"][0], "drop")
    moved = queue.assign(path="moved/" + queue["path"].str.replace("/", "-"))
    assert open_session(moved, path).progress()["drop"] == 1


def test_keep_means_the_label_that_was_shown(queue, path):
    images = queue.rename(columns={"given": "given_label"})[["path", "sha256", "given_label"]]
    corrected = queue.copy()
    corrected.loc[0, "given"] = "emu" if queue["given"][0] != "emu" else "cat"
    session = open_session(corrected, path, images=images)
    session.decide(queue["path"][0], "keep")
    line = journal.read_journal(path).iloc[0]
    assert line["decision"] == corrected["given"][0]
    assert line["given_label"] == queue["given"][0]


def test_rows_decided_out_of_the_data_stay_in_the_queue(queue, path):
    queue.loc[0, ["given", "score"]] = [None, np.nan]
    images = make_queue().rename(columns={"given": "given_label"})
    session = open_session(queue, path, images=images)
    assert queue["path"][0] in set(session.queue["path"])
    session.decide(queue["path"][0], "keep")
    assert in_force(path) == {queue["sha256"][0]: "keep"}


def test_an_escalated_picture_and_its_near_duplicates_are_listed_and_not_shown(queue, path):
    queue["group"] = [0, 0, *range(1, 59)]
    session = open_session(queue, path)
    session.decide(queue["path"][0], "escalate")
    assert [session.is_escalated(path) for path in queue["path"][:3]] == [True, True, False]
    assert session.is_escalated("unknown.jpg")
    assert session.escalated()["path"].tolist() == [queue["path"][0]]
    session.undo()
    assert not session.is_escalated(queue["path"][1])


def test_progress_counts_what_was_decided(queue, path):
    session = open_session(queue, path)
    given_label = queue["given"][0]
    other = next(name for name in NAMES if name != queue["given"][1])
    for row, decision in enumerate([given_label, other, "drop", "unsure", "escalate", "keep"]):
        session.decide(queue["path"][row], decision, seconds=1)
    progress = session.progress()
    assert [progress[name] for name in ("decided", "relabelled", "kept", "drop", "unsure", "escalate")] == [
        6,
        1,
        2,
        1,
        1,
        1,
    ]
    assert progress["errors_found"] == 2
    assert progress["seconds"] == 6


def test_a_decision_and_its_progress_take_no_longer_in_a_long_journal_with_two_reviewers(path):
    n = 20_000
    queue = make_queue(n)
    lines = [{"sha256": sha256, "decision": "keep", "reviewer": "Cem", "action": sha256} for sha256 in queue["sha256"]]
    journal.append_decisions(path, lines[: n // 2])
    ada, bob = (open_session(queue[:200] if name == "Bob" else queue, path, reviewer=name) for name in ("Ada", "Bob"))
    took = []
    for i in range(7):
        bob.decide(bob.queue["path"][i], "drop")
        start = time.process_time()
        ada.decide(ada.queue["path"][i], "keep")
        assert ada.progress()["drop"] == ada.queue["sha256"].map(ada.decision).eq("drop").sum()
        took.append(time.process_time() - start)
    start = time.process_time()
    ada.undo()
    assert min(took) < 0.1 and time.process_time() - start < 1


# --- re-ranking, control pages, neighbours ---


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), view=st.integers(0, 5), decided=st.lists(st.integers(0, 59), max_size=8))
def test_reranking_never_changes_the_page_in_view(seed, view, decided):
    queue = make_queue(seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(queue, Path(folder) / "j.csv", page_size=6)
        for row in decided:
            session.decide(queue["path"][row], "keep")
        view %= session.n_pages
        before = session.page(view)
        scores = queue[["path", "suggested"]].assign(score=np.random.default_rng(seed).uniform(-1, 1, 60))
        (now,) = session.rerank(scores, in_view=[view])
        pd.testing.assert_frame_equal(session.page(now).drop(columns="page"), before.drop(columns="page"))
        assert sorted(session.queue["path"]) == sorted(queue["path"])
        assert session.progress()["decided"] == len({queue["sha256"][row] for row in decided})
        untouched = session.pages().query("decided == 0 and page != @now").index
        fresh = session.queue[session.queue["page"].isin(untouched)].merge(scores, on="path")
        assert (fresh["score_x"] == fresh["score_y"]).all()


def test_reranking_without_the_needed_columns_is_refused(queue, path):
    for missing in ("suggested", "path"):
        with pytest.raises(ValueError, match=rf"Missing: .'{missing}'"):
            open_session(queue, path).rerank(queue[["path", "score", "suggested"]].drop(columns=missing))


def test_control_pages_are_the_same_random_rows_whatever_the_ranking(path):
    queue = make_queue(500)
    drawn = []
    for order in (queue, queue.sample(frac=1, random_state=1).assign(score=-queue["score"])):
        session = open_session(order, path, page_size=10, control_every=5)
        drawn.append(session.queue.loc[session.queue["is_control"], "wrong"])
        kinds = session.pages()["is_control"]
        assert kinds[kinds].index[:3].tolist() == [5, 11, 17]
        assert session.page_default(5) == "keep"
    shared = min(map(len, drawn)) // 10 * 10
    assert drawn[0].mean() == pytest.approx(queue["wrong"].mean(), abs=0.12)
    assert shared >= 50


def test_the_base_rate_is_measured_on_control_pages(path):
    queue = make_queue(400)
    session = open_session(queue, path, page_size=20, control_every=3)
    assert session.base_rate()["rows"] == 0
    for row in session.queue.itertuples():
        if row.is_control or row.Index % 3 == 0:
            session.decide(row.path, row.suggested if row.wrong else "keep")
    control = session.queue[session.queue["is_control"]]
    rate = session.base_rate()
    assert rate["rows"] == len(control)
    assert rate["errors"] == control["wrong"].sum()
    assert rate["low"] < queue["wrong"].mean() < rate["high"]


def test_a_picture_without_a_label_is_no_error_when_it_is_given_one_or_dropped(path):
    queue = make_queue(40).assign(given="")
    session = open_session(queue, path, page_size=20, control_every=1)
    for i, row in enumerate(session.queue.itertuples()):
        session.decide(row.path, "drop" if i % 2 else row.suggested)
    assert session.progress()["decided"] == 40 and session.progress()["errors_found"] == 0
    assert session.base_rate()["rows"] == 0, "nor are they labels that turned out right"


def test_suspects_decided_before_their_control_page_came_are_no_base_rate(path):
    queue = make_queue(400)
    session = open_session(queue, path, page_size=20, control_every=3)
    for row in session.queue.query("is_control and wrong").itertuples():
        session.decide(row.path, row.suggested)
    assert session.base_rate()["rows"] == 0, "all errors, and nobody has gone through a control page"
    for row in session.queue[session.queue["page"].eq(3)].itertuples():
        session.decide(row.path, row.suggested if row.wrong else "keep")
    assert session.base_rate()["rows"] == 20


def test_neighbours_come_from_outside_the_group_nearest_first():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(50, 8)).astype(np.float16)
    features[1], features[2] = features[0], features[0] * 2
    features[9] = np.nan
    images = pd.DataFrame(
        {"path": [f"{i}.jpg" for i in range(50)], "given_label": "cat", "group": [0, 0, *range(1, 49)]}
    )
    found = neighbours.nearest(features, images, k=5)("0.jpg")
    assert found["path"][0] == "2.jpg"
    assert found["similarity"][0] == pytest.approx(1, abs=1e-3)
    assert found["similarity"].is_monotonic_decreasing
    assert not set(found["path"]) & {"0.jpg", "1.jpg", "9.jpg"}


# --- nothing is lost ---


def test_what_was_acknowledged_survives_kill_9(path):
    code = textwrap.dedent(
        """
        import sys
        sys.path.insert(0, sys.argv[2])
        from test_session import make_queue, open_session
        queue = make_queue(2000)
        session = open_session(queue, sys.argv[1])
        for path in queue["path"]:
            session.decide(path, "keep")
            print(path, flush=True)
        """
    )
    arguments = [sys.executable, "-c", code, str(path), str(Path(__file__).parent)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        acknowledged = [process.stdout.readline().strip() for _ in range(25)]
        os.kill(process.pid, signal.SIGKILL)
        acknowledged += process.stdout.read().splitlines()[:-1]
    session = open_session(make_queue(2000), path)
    decided = set(session.decisions()["path"])
    assert set(acknowledged) <= decided
    assert len(decided) <= len(acknowledged) + 2


class Reviewing(RuleBasedStateMachine):
    """Any mix of decisions, pages, undo, redo, reopening and a second reviewer, compared with a simple model."""

    @initialize()
    def start(self):
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "j.csv"
        self.queue = make_queue(12, copies=[(5, 4)])
        self.queue.loc[[4, 5], "given"] = "cat"
        self.session = open_session(self.queue, self.path, reviewer="Ada", page_size=4)

    @rule(row=st.integers(0, 11), decision=st.sampled_from([*NAMES, *ACTIONS]))
    def decide(self, row, decision):
        before = in_force(self.path)
        self.session.decide(self.queue["path"][row], decision)
        assert in_force(self.path) == {**before, self.queue["sha256"][row]: decision}
        if row % 3 == 0:
            self.session.undo()
            assert in_force(self.path) == before

    @rule(page=st.integers(0, 20))
    def accept(self, page):
        before = in_force(self.path)
        rows = self.session.accept_page(page % self.session.n_pages)
        assert (rows["decision"] != "").all()
        assert before.items() <= in_force(self.path).items()

    @rule()
    def undo_and_redo(self):
        before = in_force(self.path)
        if self.session.undo():
            self.session.redo()
        assert in_force(self.path) == before

    @rule(times=st.integers(1, 3))
    def undo(self, times):
        for _ in range(times):
            self.session.undo()

    @rule()
    def redo(self):
        self.session.redo()

    @rule(row=st.integers(0, 11), decision=st.sampled_from(["keep", "dog"]))
    def somebody_else_decides(self, row, decision):
        open_session(self.queue, self.path, reviewer="Bob").decide(self.queue["path"][row], decision)
        self.session.decide(self.queue["path"][0], "unsure")

    @rule()
    def reopen(self):
        before = dict(self.session._replay.__dict__)
        self.session = open_session(self.queue, self.path, reviewer="Ada", page_size=4)
        assert self.session._replay.__dict__ == before

    @invariant()
    def memory_and_journal_agree(self):
        expected = in_force(self.path)
        assert {sha: self.session.decision(sha) for sha in expected} == expected
        assert self.session.progress()["decided"] == self.queue["sha256"].isin(expected).sum()

    def teardown(self):
        self.folder.cleanup()


TestReviewing = Reviewing.TestCase
TestReviewing.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)


# --- blind sessions


def test_a_blind_session_shows_neither_label_nor_suggestion_and_keeps_the_order_drawn(queue, path):
    session = open_session(queue, path, mode="audit", page_size=7, pred_probs=np.full((60, 3), 1 / 3))
    assert session.queue["path"].tolist() == queue["path"].tolist() and session.pred_probs is None
    assert session.queue[["given", "suggested"]].eq("").all(axis=None) and session.queue["score"].isna().all()
    assert [len(session.page(i)) for i in range(session.n_pages)] == [7] * 8 + [4]
    with pytest.raises(ValueError, match="stays as it was drawn"):
        session.rerank(queue[["path", "score", "suggested"]])


def test_in_a_blind_session_each_picture_needs_a_class(queue, path):
    session = open_session(queue, path, mode="audit")
    with pytest.raises(ValueError, match="'keep' says nothing"):
        session.decide(queue["path"][0], "keep")
    with pytest.raises(ValueError, match="a page cannot be accepted"):
        session.accept_page(0)
    assert session.page_default(0) == "" and not path.exists()
    session.decide(queue["path"][0], "emu")
    line = journal.read_journal(path).iloc[0]
    assert (line["kind"], line["given_label"], line["suggested"]) == ("audit", queue["given"][0], "")
    assert np.isnan(line["score"])


def test_test_rows_are_seen_in_audits_and_second_looks_at_them_alone(queue, path):
    queue["split"] = "test"
    assert all(open_session(queue, path, mode=mode, reviewer="Ada").n_pages for mode in ("audit", "second"))
    for mode in ("review", "disagreement"):
        with pytest.raises(ValueError, match="test split never enters"):
            open_session(queue, path, mode=mode, reviewer="Ada")


def test_what_review_decided_is_asked_again_in_an_audit_and_what_an_audit_was_told_comes_last(queue, path):
    review, first = open_session(queue, path), open_session(queue, path, mode="audit")
    for where in queue["path"][:3]:
        first.decide(where, "dog")
    for where in queue["path"][3:9]:
        review.decide(where, "dog")
    session = open_session(queue, path, mode="audit")
    assert session.queue["path"].tolist() == [*queue["path"][3:], *queue["path"][:3]]
    assert session.progress()["decided"] == 3 and session.first_open_page() == 0


def test_an_unknown_mode_is_refused(queue, path):
    with pytest.raises(ValueError, match="mode must be one of review, audit, second, disagreement"):
        open_session(queue, path, mode="secret")


def test_a_blind_session_still_knows_which_classes_to_spare_whom(queue, path):
    queue["about"] = "cat / emu"
    session = open_session(queue.assign(suggested="", given="dog"), path, mode="disagreement")
    assert session.classes_of(queue["path"][0]) == {"cat", "dog", "emu"} and session.classes_of("nowhere") == set()


def test_a_journal_that_cannot_be_written_is_refused_before_anybody_decides(queue, tmp_path):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "folder.csv", tmp_path / "file" / "j.csv"):
        with pytest.raises(OSError, match=r"cannot be written: .* name another journal_file"):
            open_session(queue, path)
    open_session(queue, tmp_path / "new" / "j.csv")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["keep", "drop", "unsure", "escalate", "undo", "Keep", " dog", ""])
def test_a_class_that_the_journal_could_not_tell_from_a_decision_is_refused(queue, path, name):
    with pytest.raises(ValueError, match="A class cannot be called like a decision"):
        ReviewSession(queue, path, class_names=["cat", name])


def test_a_class_may_be_called_anything_else(queue, path):
    names = ["path", "split", "keeper", "it's", "=1+1", "$x$", "Porn"]
    ReviewSession(queue, path, class_names=names).decide(queue["path"][0], "=1+1")
    assert in_force(path) == {queue["sha256"][0]: "=1+1"}


def test_a_session_is_not_opened_on_a_decision_that_is_a_class_of_nobody(queue, path):
    ReviewSession(queue, path, class_names=["cat", "dgo"]).decide(queue["path"][0], "dgo")
    with pytest.raises(ValueError, match=r"record 2: decision should be one of the classes .*'dgo'"):
        open_session(queue, path)


def test_a_full_disk_is_found_when_the_session_opens(queue, path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match=r"decisions.csv cannot be written: No space left on device.*Free some space"):
        open_session(queue, path)
    assert not path.exists()


def test_who_overrules_another_is_told_whom_and_what_and_may_still_do_it(queue, path):
    one, other = queue["path"][:2]
    open_session(queue, path, reviewer="Bea").decide(one, "drop")
    session = open_session(queue, path, reviewer="Ada")
    with pytest.raises(ValueError, match=r"Bea decided 'drop'"):
        session.decide(one, "unsure", override=False)
    with pytest.raises(ValueError, match=r"Bea decided 'drop'"):
        session.decide(other, "unsure", also=[one], override=False)
    assert session.decision(queue["sha256"][1]) == "", "all of the action waits"
    session.decide(one, "drop", override=False)
    session.decide(other, "unsure", override=False)
    session.decide(one, "unsure")
    session.decide(one, "keep", override=False)
    assert session.decision(queue["sha256"][0]) == "keep", "an own decision is overruled by nobody"


def test_the_same_label_in_other_words_overrules_nothing(queue, path):
    open_session(queue, path, reviewer="Bea").decide(queue["path"][0], "keep")
    session = open_session(queue, path, reviewer="Ada")
    session.decide(queue["path"][0], queue["given"][0], override=False)
    assert session.decision(queue["sha256"][0]) == queue["given"][0]


def test_in_an_audit_only_audit_answers_are_overruled(queue, path):
    open_session(queue, path, reviewer="Bea").decide(queue["path"][0], "drop")
    open_session(queue, path, reviewer="Bea", mode="audit").decide(queue["path"][1], "dog")
    audit = open_session(queue, path, reviewer="Ada", mode="audit")
    audit.decide(queue["path"][0], "cat", override=False)
    with pytest.raises(ValueError, match=r"Bea decided 'dog'"):
        audit.decide(queue["path"][1], "cat", override=False)


def test_a_note_is_a_line_of_the_journal_and_no_decision(queue, path):
    session = open_session(queue, path, reviewer="Ada")
    session.decide(queue["path"][0], "drop")
    session.note(queue["path"][0], " two people, one a child's drawing ")
    assert session.decision(queue["sha256"][0]) == "drop" and session.progress()["decided"] == 1
    assert session.decisions()["note"].tolist() == ["two people, one a child's drawing"]
    line = journal.read_journal(path).iloc[-1]
    assert (line["kind"], line["reviewer"], line["path"]) == ("note", "Ada", queue["path"][0])
    assert session.undo() == [queue["path"][0]], "undo takes back the decision"
    assert open_session(queue, path).decision(queue["sha256"][0]) == ""


def test_accepting_a_page_without_a_suggestion_keeps_its_labels(queue, path):
    session = open_session(queue.assign(suggested="", score=0.9), path)
    assert session.page_default(0) == "keep"
