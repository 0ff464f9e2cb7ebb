"""The review grid, seen from the kernel: what it sends to the browser, and what it never sends."""

import io
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import ipywidgets
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from nsfwlib.labels import journal
from nsfwlib.labels.neighbours import nearest
from nsfwlib.review import grid
from nsfwlib.review.grid import InOrder, ReviewGrid
from nsfwlib.review.session import ReviewSession

NAMES = ["cat", "dog"]


def write_pictures(folder, n, *, size=(220, 160)):
    """Abstract pictures with fine stripes, so that a blur can be measured; one row a picture."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        label = NAMES[i % 2]
        (folder / label).mkdir(parents=True, exist_ok=True)
        stripes = np.indices(size[::-1]).sum(0) // 3 % 2 * 200
        picture = np.stack([stripes, stripes // 2, np.full_like(stripes, rng.integers(255))], -1).astype(np.uint8)
        Image.fromarray(picture).save(folder / label / f"{i}.jpg", quality=95)
        rows.append(
            {
                "path": f"{label}/{i}.jpg",
                "sha256": f"{i:064x}",
                "given": label,
                "suggested": NAMES[1 - i % 2],
                "score": float(rng.uniform(0.1, 1)),
            }
        )
    return pd.DataFrame(rows)


class Browser:
    """Stands for the page: sends what `review.js` would send and keeps what comes."""

    def __init__(self, grid):
        self.grid, self.seq, self.received = grid, 0, []
        grid.view.send = lambda message, buffers=None: self.received.append((json.loads(json.dumps(message)), buffers))

    def send(self, op, **more):
        self.seq += 1
        before = len(self.received)
        self.deliver({"op": op, "sender": "page", "seq": self.seq, **more})
        return self.received[before:]

    def deliver(self, message):
        self.grid.view._handle_custom_msg(message, [])

    def last(self, kind):
        return next((m, b) for m, b in reversed(self.received) if m["t"] == kind)


def make_grid(folder, n=12, *, change=None, **options):
    queue = write_pictures(folder / "data", n)
    queue = change(queue) if change else queue
    session = ReviewSession(queue, folder / "decisions.csv", class_names=NAMES, page_size=6)
    return Browser(ReviewGrid(session, folder / "data", **options))


def decode(data):
    return np.asarray(Image.open(io.BytesIO(data)), float)


def sharpness(data):
    return np.abs(np.diff(decode(data).mean(-1), axis=1)).mean()


def test_pixels_that_reach_the_browser_are_blurred_grey_and_small(tmp_path):
    browser = make_grid(tmp_path)
    (page, buffers), *_ = browser.send("open")
    assert len(buffers) == len(page["rows"]) > 1
    sharp = browser.send("reveal", path=page["rows"][0]["path"])[-1][1][0]
    for data in buffers:
        picture = decode(data)
        assert max(picture.shape) <= 192
        assert np.ptp(picture, axis=-1).max() <= 2
        assert sharpness(data) < 0.05 * sharpness(sharp)


def test_the_sliders_change_the_pixels_that_are_sent(tmp_path):
    browser = make_grid(tmp_path)
    browser.send("open")
    browser.grid.grey.value = 0
    assert np.ptp(decode(browser.last("page")[1][0]), axis=-1).max() > 20
    browser.grid.blur.value = 0
    assert sharpness(browser.last("page")[1][0]) > 10


def test_less_blur_is_less_and_spares_who_avoids_a_class(tmp_path):
    browser = make_grid(tmp_path, hidden=[])
    _, before = browser.send("open")[0]
    ((message, after),) = browser.send("less")
    assert message["paths"] == [row["path"] for row in browser.last("page")[0]["rows"]]
    assert all(sharpness(less) > sharpness(full) for less, full in zip(after, before, strict=True))
    browser.grid.hide["cat"].value = True
    assert not any(browser.send("less")[0][1])


def test_a_revealed_picture_travels_alone_and_is_counted(tmp_path):
    browser = make_grid(tmp_path)
    path = browser.send("open")[0][0]["rows"][1]["path"]
    ((message, buffers),) = browser.send("reveal", path=path)
    assert message == {"t": "reveal", "path": path}
    assert decode(buffers[0]).shape == (160, 220, 3)
    assert "1 revealed" in browser.grid.counts.value
    lines = journal.read_journal(tmp_path / "decisions.csv")
    assert lines[["kind", "path"]].to_numpy().tolist() == [["reveal", path]] and journal.in_force(lines).empty


def test_no_widget_state_holds_a_pixel(tmp_path):
    browser = make_grid(tmp_path)
    path = browser.send("open")[0][0]["rows"][0]["path"]
    browser.send("reveal", path=path)
    browser.send("decide", path=path, decision="drop")
    state = browser.grid.view.get_state()
    assert not [value for value in state.values() if isinstance(value, (bytes, memoryview))]
    states = [model["state"] for model in ipywidgets.Widget.get_manager_state()["state"].values()]
    saved = json.dumps(
        [{name: value for name, value in state.items() if name != "_esm"} for state in states], default=str
    )
    assert not [mark for mark in ("/9j/", "JFIF", "image/jpeg") if mark in saved]  # the code of widgets apart


def test_a_decision_is_acknowledged_after_it_is_in_the_journal(tmp_path):
    browser = make_grid(tmp_path)
    path = browser.send("open")[0][0]["rows"][0]["path"]
    on_disk = []
    browser.grid.view.send = lambda message, buffers=None: on_disk.append(
        (message["t"], journal.decisions_in_force(tmp_path / "decisions.csv")["decision"].tolist())
    )
    browser.send("decide", path=path, decision="dog", seconds=1.0)
    assert on_disk == [("state", ["dog"])]


def test_an_escalated_picture_its_copies_and_near_duplicates_lose_their_pixels(tmp_path):
    def change(queue):
        queue.loc[2, "sha256"] = queue.loc[0, "sha256"]
        return queue.assign(group=[0, 1, 0, 3, 0, *range(5, 12)])

    browser = make_grid(tmp_path, change=change)
    browser.send("open")
    browser.send("decide", path="cat/0.jpg", decision="escalate")
    (page, buffers), *_ = browser.send("open")
    sent = {row["path"]: len(data) for row, data in zip(page["rows"], buffers, strict=True)}
    notes = {row["path"]: row["note"] for row in page["rows"]}
    for path in {"cat/0.jpg", "cat/2.jpg", "cat/4.jpg"} & set(sent):
        assert sent[path] == 0
        assert notes[path] == "escalated"
    assert browser.send("reveal", path="cat/4.jpg")[0][0]["t"] == "problem"
    assert browser.grid.revealed == 0
    assert "cat/0.jpg" in browser.grid.escalated.children[0].value


def test_a_hidden_class_sends_no_pixels(tmp_path):
    browser = make_grid(tmp_path, hidden=["cat"])
    page, buffers = browser.send("open")[0]
    assert {row["note"] for row in page["rows"]} == {"class hidden"}
    assert not any(buffers)
    browser.grid.hide["cat"].value = False
    assert all(browser.last("page")[1])


def escalated_by_bob(browser, path):
    mine = browser.grid.session
    bob = ReviewSession(mine.queue[["path", "sha256", "given", "suggested", "score"]], mine.journal,
                        class_names=NAMES, reviewer="Bob")  # fmt: skip
    bob.decide(path, "escalate")


def sent(browser):
    """What left since the start: path → bytes of its picture on the last page."""
    page, buffers = browser.last("page")
    return {row["path"]: len(data) for row, data in zip(page["rows"], buffers, strict=True)}


def test_an_escalation_by_somebody_else_hides_the_picture_here_at_once(tmp_path):
    browser = make_grid(tmp_path, change=lambda q: q.assign(group=[0, 1, 0, *range(3, 12)]))
    path = browser.send("open")[0][0]["rows"][0]["path"]
    escalated_by_bob(browser, path)
    assert [message["t"] for message, _ in browser.send("reveal", path=path)] == ["problem", "state"]
    assert browser.last("state")[0]["notes"][path] == "escalated"
    browser.send("open")
    assert sent(browser)[path] == 0
    assert path in browser.grid.escalated.children[0].value
    following = browser.grid.session.page(*browser.grid._screen_after(1, browser.grid.screen))["path"][0]
    escalated_by_bob(browser, following)
    browser.send("go", step=1)
    assert sent(browser)[following] == 0
    escalated_by_bob(browser, other := next(path for path, size in sent(browser).items() if size))
    browser.grid.blur.value = 1
    assert sent(browser)[other] == 0


def test_a_picture_escalated_while_it_was_decoded_does_not_leave(tmp_path, monkeypatch):
    browser = make_grid(tmp_path)
    path = browser.send("open")[0][0]["rows"][0]["path"]
    for name in ("sharp", "page"):
        slow = getattr(browser.grid.store, name)

        def decode(*given, slow=slow, **options):
            made = slow(*given, **options)
            escalated_by_bob(browser, path)
            return made

        monkeypatch.setattr(browser.grid.store, name, decode)
    assert browser.send("reveal", path=path)[0][0]["t"] == "problem"
    browser.grid.session.undo()
    browser.send("open")
    assert sent(browser)[path] == 0


def test_nothing_is_shown_when_the_journal_is_gone(tmp_path):
    browser = make_grid(tmp_path)
    path = browser.send("open")[0][0]["rows"][0]["path"]
    browser.send("decide", path=path, decision="escalate")
    (tmp_path / "decisions.csv").unlink()
    received = browser.send("open") + browser.send("reveal", path="dog/1.jpg")
    assert {message["t"] for message, _ in received} <= {"problem", "state"} and "is gone" in received[0][0]["text"]


def test_a_hidden_class_is_not_shown_by_any_way(tmp_path):
    def neighbours(path):
        return pd.DataFrame({"path": ["dog/3.jpg", "dog/5.jpg"], "given_label": "dog", "similarity": 0.9})

    def change(queue):
        queue["group"] = [0, 1, 0, *range(3, 12)]
        queue["suggested"] = queue["given"]
        queue.loc[3, "suggested"] = "cat"
        return queue

    browser = make_grid(tmp_path, change=change, hidden=["cat"], neighbours=neighbours)
    browser.send("open")
    assert browser.send("reveal", path="cat/0.jpg")[0][0]["t"] == "problem"
    assert browser.send("reveal", path="dog/3.jpg")[0][0]["t"] == "problem", "it might show a cat"
    assert browser.send("reveal", path="dog/5.jpg")[0][0]["t"] == "reveal"
    message, buffers = browser.send("details", path="dog/1.jpg")[0]
    assert [row["note"] for row in message["rows"]] == ["class hidden", ""] and [*map(bool, buffers)] == [False, True]
    browser.grid.session.decide("dog/5.jpg", "cat")
    assert browser.send("reveal", path="dog/5.jpg")[0][0]["t"] == "problem", "somebody has just seen a cat"
    message, buffers = browser.send("details", path="dog/1.jpg")[0]
    assert not any(buffers)
    assert browser.grid.revealed == 1


def test_a_file_that_cannot_be_read_is_named_and_left_undecided_by_accepting(tmp_path):
    browser = make_grid(tmp_path)
    page, _ = browser.send("open")[0]
    broken = page["rows"][0]["path"]
    (tmp_path / "data" / broken).write_bytes(b"<html>")
    browser.grid.store.small.cache_clear()
    browser.grid.store.blurred.cache_clear()
    page, buffers = browser.send("open")[0]
    row = page["rows"][0]
    assert (row["path"], row["note"], buffers[0]) == (broken, "not an image", b"")
    browser.send("accept", page=0, skip=[broken], seconds=1)
    assert browser.grid.session.page(0).set_index("path").loc[broken, "decision"] == ""
    assert browser.send("reveal", path=broken)[0][0]["t"] == "problem"


def test_a_refused_decision_is_explained_and_taken_back_in_the_browser(tmp_path):
    browser = make_grid(tmp_path)
    path = browser.send("open")[0][0]["rows"][0]["path"]
    (problem, _), (state, _) = browser.send("decide", path=path, decision="bird")
    assert "bird" in problem["text"]
    assert state["seq"] == browser.seq
    assert state["decisions"][path] == ""


def test_accepting_a_page_decides_this_page_alone(tmp_path):
    browser = make_grid(tmp_path)
    browser.send("open")
    browser.send("accept", page=0, skip=[], seconds=3)
    browser.send("go", step=1)
    assert browser.last("page")[0]["page"] > 0
    assert browser.grid.session.pages()["decided"].tolist()[:2] == [len(browser.grid.session.page(0)), 0]


def test_small_pages_share_the_screen_as_far_as_they_fit(tmp_path):
    browser = make_grid(tmp_path, n=16)
    message = browser.send("open")[0][0]
    screens = [[part["page"] for part in message["sections"]]]
    while True:
        browser.send("go", step=1)
        message = browser.last("page")[0]
        pages = [part["page"] for part in message["sections"]]
        if pages == screens[-1]:
            break
        assert [message["sections"][row["section"]]["page"] for row in message["rows"]] == [
            page for page in pages for _ in range(len(browser.grid.session.page(page)))
        ]
        screens.append(pages)
    assert [page for screen in screens for page in screen] == list(range(browser.grid.session.n_pages))
    sizes = browser.grid.session.pages()["rows"]
    assert all(sizes[screen].sum() <= 6 for screen in screens)
    assert any(len(screen) > 1 for screen in screens)
    browser.send("go", step=-1)
    assert browser.last("page")[0]["sections"][-1]["page"] == screens[-1][0] - 1


def test_undo_turns_back_to_the_page_it_concerns(tmp_path):
    browser = make_grid(tmp_path)
    browser.send("open")
    browser.send("accept", page=0, skip=[], seconds=3)
    browser.send("go", step=1)
    browser.send("undo")
    page = browser.last("page")[0]
    assert page["page"] == 0
    assert {row["decision"] for row in page["rows"]} == {""}
    browser.send("redo")
    assert browser.last("page")[0]["rows"][0]["decision"] != ""
    browser.send("redo")
    assert browser.last("state")[0]["text"] == "nothing to redo"


def test_filters_choose_which_pages_are_turned_to(tmp_path):
    browser = make_grid(tmp_path, n=40)
    browser.send("open")
    pages = browser.grid.session.pages()
    browser.grid.pair.value = ("dog", "cat")
    shown = [part["page"] for part in browser.last("page")[0]["sections"]]
    for _ in range(30):
        browser.send("go", step=1)
        shown += [part["page"] for part in browser.last("page")[0]["sections"]]
    assert sorted(set(shown)) == pages.index[pages["given"] == "dog"].tolist()
    assert browser.grid.message.value == "This is the last page."
    browser.send("accept", page=shown[0], skip=[], seconds=0)
    browser.grid.open_only.value = True
    assert browser.last("page")[0]["page"] == sorted(set(shown))[1]


def test_the_page_in_view_survives_reranking(tmp_path):
    def rescore(session):
        return session.queue[["path", "suggested"]].assign(score=-session.queue["score"])

    browser = make_grid(tmp_path, n=40, rescore=rescore)
    browser.send("open")
    browser.send("go", step=1)
    before = [row["path"] for row in browser.last("page")[0]["rows"]]
    browser.grid._rerank()
    assert [row["path"] for row in browser.last("page")[0]["rows"]] == before


def test_details_show_group_members_and_voters_blurred(tmp_path):
    def neighbours(path):
        return pd.DataFrame({"path": ["dog/3.jpg"], "given_label": ["dog"], "similarity": [0.9]})

    browser = make_grid(tmp_path, change=lambda q: q.assign(group=[0, 1, 0, *range(3, 12)]), neighbours=neighbours)
    browser.send("open")
    message, buffers = browser.send("details", path="cat/0.jpg")[0]
    assert [(row["label"], row["why"]) for row in message["rows"]] == [
        ("cat", "near-duplicate"),
        ("dog", "similarity 0.90"),
    ]
    assert all(sharpness(data) < 2 for data in buffers)


def test_a_control_page_shows_no_suggestion(tmp_path):
    queue = write_pictures(tmp_path / "data", 20)
    session = ReviewSession(
        queue,
        tmp_path / "decisions.csv",
        class_names=NAMES,
        page_size=3,
        control_every=1,
        pred_probs=np.full((20, 2), 0.5),
    )
    browser = Browser(ReviewGrid(session, tmp_path / "data"))
    browser.send("open")
    while not browser.grid.session.pages().loc[browser.last("page")[0]["page"], "is_control"]:
        browser.send("go", step=1)
    page = browser.last("page")[0]
    assert {(row["suggested"], row["probs"], row["p_given"]) for row in page["rows"]} == {("", None, None)}
    assert page["sections"][0]["default"] == "keep"


def test_a_class_hidden_on_a_random_page_does_not_tell_what_was_suggested(tmp_path):
    queue = write_pictures(tmp_path / "data", 20)
    queue["suggested"] = "dog"
    session = ReviewSession(queue, tmp_path / "j.csv", class_names=NAMES, page_size=20, control_every=1)
    browser = Browser(ReviewGrid(session, tmp_path / "data", hidden=["dog"]))
    browser.grid.screen = [int(session.pages()["is_control"].argmax())]
    page = browser.send("open")[0][0]
    assert len(page["rows"]) > 3 and {row["note"] for row in page["rows"]} == {"class hidden"}
    assert not {row["given"] + row["name"] + row["suggested"] for row in page["rows"]} - {""}


def test_a_refusal_names_its_pictures_and_several_are_decided_as_one_action(tmp_path):
    browser = make_grid(tmp_path)
    paths = [row["path"] for row in browser.send("open")[0][0]["rows"]][:3]
    browser.send("decide", path=paths[0], also=paths[1:], decision="bird")
    assert browser.last("problem")[0]["paths"] == paths
    browser.send("decide", path=paths[0], also=paths[1:], decision="dog", seconds=6)
    lines = journal.read_journal(tmp_path / "decisions.csv")
    assert lines["action"].nunique() == 1 and lines["seconds"].tolist() == [2, 2, 2]
    browser.send("undo")
    assert browser.grid.session.progress()["decided"] == 0


def test_a_row_without_a_label_is_shown(tmp_path):
    queue = write_pictures(tmp_path / "data", 8)
    queue.loc[0, ["given", "score"]] = [None, np.nan]
    probs = np.full((8, 2), 0.5)
    session = ReviewSession(queue, tmp_path / "decisions.csv", class_names=NAMES, pred_probs=probs)
    page, buffers = Browser(ReviewGrid(session, tmp_path / "data")).send("open")[0]
    row = next(row for row in page["rows"] if row["path"] == queue["path"][0])
    assert (row["given"], row["p_given"]) == ("", None)
    assert all(buffers)


def test_the_minutes_of_a_sitting_are_those_looked_at(tmp_path):
    browser = make_grid(tmp_path)
    rows = browser.send("open")[0][0]["rows"]
    browser.send("decide", path=rows[0]["path"], decision="keep", seconds=50)
    browser.send("decide", path=rows[1]["path"], decision="keep", seconds=20)
    assert "this sitting: 0 revealed, 1 min" in browser.grid.counts.value


def test_names_that_look_like_markup_stay_text(tmp_path):
    evil = "cat/<script>alert(1)<!--\"'.jpg"

    def change(queue):
        (tmp_path / "data" / "cat" / "0.jpg").rename(tmp_path / "data" / "cat" / "safe.jpg")
        return queue.replace({"path": {"cat/0.jpg": evil}})

    (tmp_path / "rules.md").write_text("# Classes\n\n**cat**: purrs <script>alert(1)</script>\n")
    browser = make_grid(tmp_path, change=change, guidelines=tmp_path / "rules.md")
    browser.send("open")
    browser.send("decide", path=evil, decision="escalate")
    assert "<script" not in browser.grid.escalated.children[0].value
    assert "<script" not in browser.grid.view.guidelines
    assert "<strong>cat</strong>" in browser.grid.view.guidelines


def test_what_spreadsheets_would_run_is_exported_as_text(tmp_path):
    def change(queue):
        (tmp_path / "data" / "cat" / "0.jpg").rename(tmp_path / "data" / "=1+1.jpg")
        return queue.replace({"path": {"cat/0.jpg": "=1+1.jpg"}})

    browser = make_grid(tmp_path, change=change)
    browser.send("open")
    browser.send("decide", path="=1+1.jpg", decision="unsure")
    browser.grid._export()
    assert "'=1+1.jpg" in (tmp_path / "decisions_in_force.csv").read_text().split(",")


def test_export_writes_the_decisions_in_force(tmp_path):
    browser = make_grid(tmp_path)
    path = browser.send("open")[0][0]["rows"][0]["path"]
    browser.send("decide", path=path, decision="unsure")
    browser.grid._export()
    assert pd.read_csv(tmp_path / "decisions_in_force.csv")["decision"].tolist() == ["unsure"]


def test_an_empty_queue_shows_that_there_is_nothing_to_review(tmp_path):
    browser = make_grid(tmp_path, change=lambda queue: queue[:0])
    page, buffers = browser.send("open")[0]
    assert page["rows"] == []
    assert buffers == []
    browser.send("go", step=1)


def test_turning_the_page_of_a_long_queue_takes_less_than_a_blink(tmp_path, monkeypatch):
    pictures = write_pictures(tmp_path / "data", 60)["path"]
    n = 100_000
    rng = np.random.default_rng(0)
    code = rng.integers(0, 2, n)
    queue = pd.DataFrame(
        {
            "path": [f"{i}.jpg" for i in range(n)],
            "sha256": [f"{i:064x}" for i in range(n)],
            "given": np.take(NAMES, code),
            "suggested": np.take(NAMES, 1 - code),
            "score": np.sort(rng.uniform(-1, 1, n)),
        }
    )
    monkeypatch.setattr(grid, "file_path", lambda folder, path: folder / pictures[int(path.removesuffix(".jpg")) % 60])
    session = ReviewSession(queue, tmp_path / "decisions.csv", class_names=NAMES)
    browser = Browser(ReviewGrid(session, tmp_path / "data"))
    browser.send("open")
    took = []
    for _ in range(5):
        time.sleep(0.4)  # a reviewer looks at the page, the next is made ready meanwhile
        start = time.perf_counter()
        browser.send("go", step=1)
        took.append(time.perf_counter() - start)
    page, buffers = browser.last("page")
    assert page["page"] == 5
    assert len(buffers) > 5
    assert all(buffers)
    assert min(took) < 0.3


def test_a_message_that_overtook_another_waits_for_it(tmp_path, monkeypatch):
    browser = make_grid(tmp_path)
    path = browser.send("open")[0][0]["rows"][0]["path"]
    first, second = (
        {"op": "decide", "sender": "page", "seq": seq, "path": path, "decision": decision}
        for seq, decision in ((2, "unsure"), (3, "keep"))
    )
    browser.deliver(second)
    assert not (tmp_path / "decisions.csv").exists()
    browser.deliver(first)
    assert journal.read_journal(tmp_path / "decisions.csv")["decision"].tolist() == ["unsure", "keep"]
    browser.deliver(first)
    later = time.monotonic() + 61
    monkeypatch.setattr(grid.time, "monotonic", lambda: later)
    browser.deliver({"op": "still", "sender": "page", "seq": 4})
    assert len(journal.read_journal(tmp_path / "decisions.csv")) == 2, "the same message twice is one decision"


def test_two_pages_number_their_messages_each_for_itself(tmp_path):
    browser = make_grid(tmp_path)
    path = browser.send("open")[0][0]["rows"][0]["path"]
    browser.deliver({"op": "decide", "sender": "other", "seq": 1, "path": path, "decision": "keep"})
    assert len(journal.read_journal(tmp_path / "decisions.csv")) == 1


def test_what_waits_for_a_lost_message_is_saved_after_a_minute(tmp_path, monkeypatch):
    browser = make_grid(tmp_path)
    path = browser.send("open")[0][0]["rows"][0]["path"]
    browser.deliver({"op": "decide", "sender": "page", "seq": 3, "path": path, "decision": "keep"})
    later = time.monotonic() + 61
    monkeypatch.setattr(grid.time, "monotonic", lambda: later)
    browser.deliver({"op": "still", "sender": "page", "seq": 4})
    assert journal.read_journal(tmp_path / "decisions.csv")["decision"].tolist() == ["keep"]


def test_messages_from_two_threads_are_handled_one_at_a_time_in_order():
    handled, busy = [], threading.Lock()

    def handle(message):
        assert busy.acquire(blocking=False), "two at a time"
        time.sleep(0.001)
        handled.append(message["seq"])
        busy.release()

    inbox = InOrder(handle)
    messages = [{"sender": "page", "seq": seq} for seq in range(1, 101)]
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(inbox.take, messages[::2] + messages[1::2]))
    assert handled == list(range(1, 101))


@pytest.mark.parametrize("message", [{}, {"op": "format disk"}, {"op": "decide"}, {"op": "go", "step": "x"}])
def test_a_message_that_makes_no_sense_does_no_harm(tmp_path, message):
    browser = make_grid(tmp_path)
    browser.grid.view._handle_custom_msg({"seq": 1, **message}, [])
    assert not (tmp_path / "decisions.csv").exists()


def blind_grid(folder, mode="audit", **options):
    queue = write_pictures(folder / "data", 12).assign(split="train", group=lambda rows: rows.index // 2)
    more = {"reviewer": "Bob"} if mode == "second" else {}
    if mode == "disagreement":
        queue["about"] = "cat / dog"
    session = ReviewSession(
        queue, folder / "decisions.csv", class_names=NAMES, page_size=6, mode=mode,
        pred_probs=np.full((12, 2), 0.5), **more,
    )  # fmt: skip
    neighbours = nearest(np.eye(12), queue.rename(columns={"given": "given_label"}))
    return Browser(ReviewGrid(session, folder / "data", neighbours=neighbours, rescore=lambda _: 0, **options))


@pytest.mark.parametrize("mode", ["audit", "second", "disagreement"])
def test_a_blind_page_gives_no_label_away(tmp_path, mode):
    browser = blind_grid(tmp_path, mode)
    browser.send("open")
    page, pictures = browser.last("page")
    for row in page["rows"]:
        assert (row["given"], row["suggested"], row["name"], row["probs"], row["p_given"]) == ("", "", "", None, None)
    shown = "cat / dog" if mode == "disagreement" else ""
    assert {row["about"] for row in page["rows"]} == {shown} and all(pictures)
    assert [page["sections"][0][name] for name in ("default", "given", "suggested", "wrong")] == ["", "", "", 0]
    browser.send("details", path=page["rows"][0]["path"])
    assert browser.last("details")[0]["rows"] == [], "neighbours have labels"
    assert "error" not in browser.grid.counts.value and browser.grid.view.mode == mode
    assert [label for label, _ in browser.grid.pair.options] == ["all, in the order drawn"]


def test_keep_and_accept_are_refused_in_a_blind_grid_and_a_class_is_taken(tmp_path):
    browser = blind_grid(tmp_path)
    browser.send("open")
    path = browser.last("page")[0]["rows"][0]["path"]
    browser.send("decide", path=path, decision="keep", seconds=1)
    assert "give the picture a class" in browser.last("problem")[0]["text"]
    browser.send("accept", page=0, skip=[], seconds=1)
    assert "cannot be accepted" in browser.last("problem")[0]["text"]
    browser.send("decide", path=path, decision="dog", seconds=1)
    assert browser.last("state")[0]["decisions"][path] == "dog"
    assert journal.decisions_in_force(tmp_path / "decisions.csv")["decision"].tolist() == ["dog"]


def test_a_hidden_class_is_spared_in_a_blind_grid_too(tmp_path):
    browser = blind_grid(tmp_path, hidden=["cat"])
    browser.send("open")
    page, pictures = browser.last("page")
    assert {row["note"] for row in page["rows"]} == {"class hidden"} and not any(pictures)


def test_a_full_disk_is_told_in_a_sentence_that_names_the_journal(tmp_path, monkeypatch):
    browser = make_grid(tmp_path)
    path = browser.send("open")[0][0]["rows"][0]["path"]

    def full(fd, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    (problem, _), (state, _) = browser.send("decide", path=path, decision="drop")
    assert problem["text"].startswith(f"The journal {tmp_path / 'decisions.csv'} cannot be written: No space left")
    assert state["decisions"][path] == ""


def test_a_class_has_a_blur_of_its_own_unless_that_would_tell_the_label(tmp_path):
    browser = make_grid(tmp_path, blurs={"cat": 0.0, "dog": 0.0})
    _, sharp = browser.send("open")[0]
    some = make_grid(tmp_path, blurs={"cat": 0.0})
    _, blurred = some.send("open")[0]
    assert all(sharpness(one) > 2 * sharpness(other) for one, other in zip(sharp, blurred, strict=True)), (
        "what may be a dog is blurred as before"
    )
    queue = write_pictures(tmp_path / "data", 6)
    session = ReviewSession(queue, tmp_path / "decisions.csv", class_names=NAMES, mode="audit", reviewer="Ada")
    audit = Browser(ReviewGrid(session, tmp_path / "data", blurs={"cat": 0.0, "dog": 0.0}))
    assert max(map(sharpness, audit.send("open")[0][1])) < min(map(sharpness, sharp)) / 2


def test_a_decision_of_somebody_else_gives_way_when_asked_twice(tmp_path):
    browser = make_grid(tmp_path)
    row = browser.send("open")[0][0]["rows"][0]
    sha256 = browser.grid.session.queue.set_index("path")["sha256"][row["path"]]
    line = {"sha256": sha256, "path": row["path"], "decision": "drop", "reviewer": "Bea"}
    journal.append_decisions(tmp_path / "decisions.csv", line)
    problem, state = browser.send("decide", path=row["path"], decision="unsure")
    assert "Bea decided 'drop'" in problem[0]["text"] and problem[0]["paths"] == [row["path"]]
    assert state[0]["decisions"][row["path"]] == "drop"
    browser.send("decide", path=row["path"], decision="unsure")
    assert browser.last("state")[0]["decisions"][row["path"]] == "unsure"


def test_a_note_reaches_the_journal_and_the_export(tmp_path):
    browser = make_grid(tmp_path)
    path = browser.send("open")[0][0]["rows"][0]["path"]
    browser.send("note", path=path, text="=blurry")
    assert browser.last("state")[0]["text"] == "noted"
    browser.send("decide", path=path, decision="drop")
    browser.grid._export()
    exported = pd.read_csv(tmp_path / "decisions_in_force.csv")
    assert exported["note"].str.contains("blurry").all() and not exported["note"].str.startswith("=").any()
