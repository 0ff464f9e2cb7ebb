import html
import re
from pathlib import Path

import ipywidgets
import mistune
import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml

from nsfwlib import labels, review, runs, score
from nsfwlib.evaluate import audit_files, card, confusion, robustness
from nsfwlib.labels import current, journal
from nsfwlib.labels.issues import judge_labels
from nsfwlib.review import explorer, grid, opinions, queues
from nsfwlib.review.session import ReviewSession

CLASSES = ["a", "b", "c"]


@pytest.fixture
def planted(rng):
    """Three clouds of 40, six labels wrong, one row unlabelled: images table, features, true labels."""
    truth = np.repeat(CLASSES, 40)
    features = rng.normal(0, 1, (120, 8)) + 4 * np.eye(3, 8)[np.repeat(range(3), 40)]
    given = truth.copy()
    given[[0, 5, 45, 50, 85, 90]] = ["b", "c", "a", "c", "a", "b"]
    given[119] = ""
    table = pd.DataFrame(
        {
            "path": [f"{i}.png" for i in range(120)],
            "sha256": [f"{i:064x}" for i in range(120)],
            "given_label": given,
            "split": np.where(np.arange(120) % 5 == 4, "test", "train"),
            "group": range(120),
            "problem": "",
            "source": "",
        }
    )
    return table, {"block": features.astype(np.float16)}, truth


def test_planted_errors_lead_the_queue_and_test_rows_are_not_in_it(planted, tmp_path):
    table, features, truth = planted
    issues, probs = judge_labels(table, features, tmp_path / "j.csv", class_names=CLASSES)
    queue = queues.review_queue(issues)
    wrong = set(table.loc[table["given_label"].ne(truth) & table["split"].ne("test"), "path"])
    assert set(queue.nlargest(len(wrong), "score")["path"]) == wrong
    assert not queue["split"].eq("test").any() and probs.shape == (120, 3)


def test_an_unlabelled_picture_enters_the_queue_by_its_predicted_class(planted, tmp_path):
    table, features, _ = planted
    table.loc[119, "split"] = "train"
    issues, _ = judge_labels(table, features, tmp_path / "j.csv", class_names=CLASSES)
    row = queues.review_queue(issues).set_index("path").loc["119.png"]
    assert row["suggested"] == "c" and row["score"] >= 0.9
    session = ReviewSession(queues.review_queue(issues), tmp_path / "j.csv", class_names=CLASSES, images=table)
    session.decide("119.png", "c")
    assert session.decision(row["sha256"]) == "c"


def test_a_confirmed_label_is_not_suspected_again(planted, tmp_path):
    table, features, _ = planted
    before, _ = judge_labels(table, features, tmp_path / "j.csv", class_names=CLASSES)
    session = ReviewSession(queues.review_queue(before), tmp_path / "j.csv", class_names=CLASSES, images=table)
    session.decide("0.png", "keep")
    after, _ = judge_labels(table, features, session.journal, class_names=CLASSES)
    assert before["is_issue"][0] and not after["is_issue"][0]
    session.rerank(after)
    assert session.progress()["decided"] == 1 and session.progress()["rows"] == len(queues.review_queue(before))


def test_labels_of_test_judge_nothing_whatever_an_audit_said_of_them(planted, tmp_path):
    table, features, _ = planted
    before, probs = judge_labels(table, features, tmp_path / "j.csv", class_names=CLASSES)
    is_test = table["split"].eq("test")
    audited = table[is_test].head(12)
    lines = [{"sha256": content, "given_label": "a", "decision": "c"} for content in audited["sha256"]]
    journal.append_decisions(tmp_path / "j.csv", lines)
    after, same = judge_labels(table, features, tmp_path / "j.csv", class_names=CLASSES)
    np.testing.assert_array_equal(probs, same)
    pd.testing.assert_series_equal(before["suggested"][~is_test], after["suggested"][~is_test])


@pytest.fixture
def run(planted, tmp_path):
    """What notebooks 01 and 03 leave behind, with an audit of `train`, and a journal with three decisions of Ada."""
    table, features, _ = planted
    issues, probs = judge_labels(table, features, tmp_path / "j.csv", class_names=CLASSES)
    runs.write_table(table, tmp_path / "images.parquet")
    runs.write_table(issues, tmp_path / "label_issues.parquet")
    probs = pd.DataFrame(probs, columns=CLASSES)
    runs.write_table(probs.assign(path=table["path"]), tmp_path / "pred_probs.parquet")
    options = {"class_names": CLASSES}
    audit_files.draw_audits(
        tmp_path, {"train": 20}, table, table["given_label"], probs.to_numpy(), tmp_path / "j.csv", **options
    )
    session = queues.open_session(tmp_path, tmp_path / "j.csv", reviewer="Ada")
    for path in session.queue["path"][:3]:
        session.decide(path, "a")
    return tmp_path


def test_a_reviewers_page_opens_in_every_mode(run):
    pages = {
        mode: queues.open_session(run, run / "j.csv", mode=mode, reviewer="Bob", share=1.0)
        for mode in ("review", "audit", "second", "disagreement")
    }
    asked = audit_files.load_audit(run, "train").query("picked")
    assert [len(session.queue) for session in pages.values()] == [96, len(asked), 3, 0]
    assert pages["review"].pred_probs is not None and not pages["review"].queue["split"].eq("test").any()
    pages["second"].decide(pages["second"].queue["path"][0], "b")
    open_now = queues.open_session(run, run / "j.csv", mode="disagreement", reviewer="Cem")
    assert open_now.queue["about"].tolist() == ["a / b"]


def test_the_saved_queue_of_a_run_opens_as_a_grid_with_the_data_and_the_journal_of_its_record(run, planted):
    with pytest.raises(ValueError, match="does not name its data"):
        grid.open(run)
    runs.note_data(run, planted[0], run, class_map={})
    runs.check_data(run, run, run / "j.csv")
    opened = grid.open(run, reviewer="Bob")
    assert opened.session.progress()["decided"] == 3 and opened.store.data_dir == run
    assert grid.open(run, mode="audit").says(), "how exact the audit is"
    with pytest.raises(ValueError, match="data_dir"):
        grid.open(run, data_dir=run.parent)


def test_the_page_has_a_tab_for_each_kind_of_work_and_asks_nothing_of_another_machine(run, planted):
    root, shown = Path(__file__).parents[2], []
    runs.note_data(run, planted[0], run, class_map={})
    cells = nbformat.read(root / "notebooks" / "review_page.ipynb", 4).cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    known = {"display": shown.append, "runs": runs, "review": review, "ipywidgets": ipywidgets, "Path": Path}
    known |= {"labels": labels, "score": score}
    exec(code[0], known)
    known |= {"data_dir": str(run), "run_dir": str(run), "reviewer": "Bob", "journal_file": str(run / "j.csv")}
    for source in code[2:]:
        exec(source, known)
    page = shown[0]
    assert page.titles == ("review (96)", "audit (20)", "second (0)", "disagreement (0)", "all", "progress")
    page.children[0].session.decide("0.png", "drop")
    page.selected_index = 5
    assert "Bob" in page.children[5].value, "the table is that of the moment"
    page.children[4].everything.click()
    assert len(page.children[4].grid.session.queue) > 0
    assert "Content-Security-Policy" in (root / "Makefile").read_text()


def test_agreement_of_a_run_counts_groups_and_is_empty_before_any_second_look(run, planted):
    assert opinions.agreement(journal.read_journal(run / "j.csv"), images=planted[0]).empty
    second = queues.open_session(run, run / "j.csv", mode="second", reviewer="Bob", share=1.0)
    for path in second.queue["path"]:
        second.decide(path, "a")
    found = opinions.agreement(journal.read_journal(run / "j.csv"), images=planted[0])
    assert found["between"].tolist() == ["all", "Ada and Bob"] and found["agree"].eq(1).all()


def test_the_journal_in_use_is_that_of_the_simulated_reviewer_where_there_was_one(tmp_path):
    real = tmp_path / "real.csv"
    assert current.journal_in_use(tmp_path, real) == real
    runs.write_json({"simulated": True}, tmp_path / "cleansing.json")
    assert current.journal_in_use(tmp_path, real) == tmp_path / "simulated_decisions.csv"


def test_what_changed_counts_relabelled_and_dropped():
    before, after = pd.Series(["a", "a", "b", "b"]), pd.Series(["a", "b", None, "b"])
    table = current.what_changed(before, after)
    assert table.loc["a", "b"] == 1 and table.loc["b", "(left out)"] == 1 and table.to_numpy().sum() == 2


def test_the_cost_of_review_is_what_was_decided(planted, tmp_path):
    table, features, _ = planted
    issues, _ = judge_labels(table, features, tmp_path / "j.csv", class_names=CLASSES)
    session = ReviewSession(queues.review_queue(issues), tmp_path / "j.csv", class_names=CLASSES)
    session.decide("0.png", "a", seconds=30)
    session.decide("1.png", "keep", seconds=30)
    assert queues.what_review_cost(session).tolist() == [2, 1, 1.0, 1.0]


def test_answers_on_validation_become_a_queue_with_the_wrong_ones_first():
    probs = pd.DataFrame([[0.1, 0.9, 0], [0.4, 0.6, 0], [0.9, 0.1, 0]], columns=CLASSES, index=["x", "y", "z"])
    labels = pd.DataFrame({"label": ["a", "a", "a"]}, index=["x", "y", "z"])
    table = pd.DataFrame({"sha256": ["1", "2", "3"], "split": "val", "group": [0, 1, 2]}, index=["x", "y", "z"])
    queue = queues.cell_queue(probs, labels, table, class_names=CLASSES)
    assert queue["path"].tolist() == ["x", "y", "z"] and queue["score"].round(2).tolist() == [0.8, 0.2, -0.8]
    assert queue["given"].eq("a").all() and queue["suggested"].eq("b").all()


def test_a_baseline_of_other_classes_is_refused_by_name(tmp_path):
    pd.DataFrame({"path": ["x"], "split": ["test"], "a": [1.0], "z": [0.0]}).to_parquet(
        tmp_path / "predictions.parquet"
    )
    rows = pd.DataFrame({"path": ["x"], "sha256": ["1"]})
    with pytest.raises(ValueError, match=r"same pictures with the classes a, b, c\. Received classes a, z"):
        robustness.baseline_answers(str(tmp_path), rows, tmp_path, cache_dir=tmp_path, class_names=CLASSES)


def test_without_a_baseline_there_is_no_answer(tmp_path):
    rows = pd.DataFrame({"path": ["x"], "sha256": ["1"]})
    assert robustness.baseline_answers("", rows, tmp_path, cache_dir=tmp_path, class_names=CLASSES) is None
    assert robustness.baseline_answers("published", rows, tmp_path, cache_dir=tmp_path, class_names=CLASSES) is None


def test_published_matrices_stand_beside_the_same_classes_only():
    five = ["drawings", "hentai", "neutral", "porn", "sexy"]
    path = Path(__file__).parents[2] / "_art" / "published_confusion.json"
    found = confusion.published_matrices(path, class_names=five)
    assert [record["shares"].shape for record in found] == [(5, 5), (5, 5)]
    assert found[0]["shares"].diagonal().mean() < found[1]["shares"].diagonal().mean()
    assert confusion.published_matrices(path, class_names=CLASSES) == []
    assert confusion.published_matrices("", class_names=five) == []


def test_the_explorer_answers_its_sliders(rng):
    unsafe = rng.random(200) < 0.5
    score, at = np.clip(unsafe * 0.4 + rng.random(200) * 0.6, 0, 1), {"threshold": 0.5, "prevalence": 0.01}
    widget = explorer.threshold_explorer(unsafe, score, review_from=1.0, **at)
    threshold, prevalence, review_from, picture = widget.children
    seen = {bytes(picture.value)}
    threshold.value = 0.7
    seen.add(bytes(picture.value))
    prevalence.value = 0.1
    seen.add(bytes(picture.value))
    review_from.value = 0.3
    seen.add(bytes(picture.value))
    assert len(seen) == 4 and all(png.startswith(b"\x89PNG") for png in seen)


@pytest.mark.parametrize(("audit", "says"), [("", "were not reviewed"), ("60 of 60 have a verdict", "60 of 60")])
def test_the_card_is_written_whole_from_the_tables(tmp_path, audit, says):
    run = {
        "settings": {"data": "f00", "epochs": 2}, "class_names": ["a", "b"], "finished": "2026-01-01",
        "versions": {"keras": "3"},
    }  # fmt: skip
    scores = pd.DataFrame(
        [("accuracy", "", 0.91234, 0.88, 0.94, 120, "")],
        columns=["score", "class", "value", "low", "high", "support", "note"],
    )
    path = card.write_card(
        tmp_path / "MODEL_CARD.md", name="demo: #1", run=run, counts=pd.DataFrame({"train": [3]}, index=["a"]),
        cleansing={"found": "4 in 10", "changed": 4, "simulated": False}, scores=scores,
        points=pd.DataFrame({"wish": ["recall ≥ 0.9"], "threshold": [0.3]}), slices=pd.DataFrame({"value": ["a|b"]}),
        audit=audit,
    )  # fmt: skip
    text = path.read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["pipeline_tag"] == "image-classification" and front["model_name"] == "demo: #1"
    for expected in ("0.912", "0.88", "4 in 10", "recall ≥ 0.9", "`f00`", "keras 3", "a\\|b", says):
        assert expected in text, expected
    assert ("were not reviewed" in text) == (not audit)
    assert [p.name for p in tmp_path.iterdir()] == ["MODEL_CARD.md"]


def test_the_card_shows_intervals_beside_numbers_and_what_the_audit_says_of_the_labels(tmp_path):
    point = {"wish": "fpr ≤ 0.01", "threshold": 0.3, "missed": 12345.6, "missed_low": 9000.0, "missed_high": 20000.0}
    path = card.write_card(
        tmp_path / "MODEL_CARD.md", name="demo", counts=pd.DataFrame(), scores=pd.DataFrame(), slices=pd.DataFrame(),
        run={"settings": {"data": "f00"}, "class_names": ["a"], "finished": "", "versions": {}},
        cleansing={"found": "", "changed": 0, "simulated": False}, points=pd.DataFrame([point]), audit="60 of 60.",
        errors={"value": 0.066, "low": 0.029, "high": 0.165},
    )  # fmt: skip
    text = path.read_text()
    assert "| 0.3 | 12,346 (9,000–20,000) |" in text and "missed\\_low" not in text
    assert "6.6% are wrong (2.9% to 16.5%), if whoever audited them was right" in text


def test_without_a_test_set_val_is_measured_and_said_to_flatter():
    rows = pd.DataFrame({"split": ["train", "val", "test"]})
    assert card.held_out(rows) == ("test", "Measured on test, which informed no choice.")
    split, worth = card.held_out(rows[:2])
    assert (
        split == "val" and "There is no test set" in worth and "cannot be said" in worth and "a folder `test`" in worth
    )


def test_names_in_the_card_are_text_neither_html_nor_markdown(tmp_path):
    odd = [
        "<img src=x onerror=alert(1)>",
        "a | b",
        "`code`",
        "**bold** _soft_ ~~gone~~",
        "[press](https://x.y)",
        "# 1\n# 2",
        "$a$ &lt;",
    ]
    run = {"settings": {"data": "f00", "weights": odd[0]}, "class_names": odd, "finished": "", "versions": {}}
    path = card.write_card(
        tmp_path / "MODEL_CARD.md", name=odd[0], run=run, counts=pd.DataFrame({"train": 1}, index=odd), audit=odd[0],
        cleansing={"found": odd[0], "changed": 4, "simulated": False}, points=pd.DataFrame({"wish": odd}),
        scores=pd.DataFrame({"class": odd}), slices=pd.DataFrame({"value": odd, odd[0]: 1}),
    )  # fmt: skip
    page = mistune.create_markdown(escape=False, plugins=["table", "strikethrough", "math"])(
        path.read_text().split("---", 2)[2]
    )
    assert set(re.findall(r"<(\w+)", page)) == {"h1", "h2", "p", "code", "table", "thead", "tbody", "tr", "th", "td"}
    assert page.count("<h1>") == 1 and page.count("<code>") == 1, "the fingerprint"
    cells = [html.unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", page)]
    assert all(cells.count(" ".join(name.split())) == 4 + (name == odd[0]) for name in odd)


def test_divided_work_is_whole_even_and_stays_put_when_somebody_joins():
    table = pd.DataFrame({"sha256": [f"{i:064x}" for i in range(3000)], "group": np.arange(3000) // 2})
    two = {name: queues.divided_queue(table, table, reviewer=name, reviewers=["Ada", "Bea"]) for name in ("Ada", "Bea")}
    assert sorted([*two["Ada"].index, *two["Bea"].index]) == [*range(3000)]
    assert not set(two["Ada"]["group"]) & set(two["Bea"]["group"]), "near-duplicates fall to one"
    assert 1350 < len(two["Ada"]) < 1650
    third = queues.divided_queue(table, table, reviewer="Ada", reviewers=["Cleo", "Bea", "Ada"])
    assert set(third.index) < set(two["Ada"].index) and 850 < len(third) < 1150
    with pytest.raises(ValueError, match="Dan"):
        queues.divided_queue(table, table, reviewer="Dan", reviewers=["Ada", "Bea"])


def answered_audit(run, table, truth):
    """Dee answers the audit of `train` by the truth; who comes after finds these answers in the journal."""
    audit = queues.open_session(run, run / "j.csv", mode="audit", reviewer="Dee")
    true = dict(zip(table["path"], truth, strict=True))
    for path in audit.queue["path"]:
        audit.decide(path, true[path])
    return true


def test_known_pictures_come_again_hidden_and_what_is_said_of_them_changes_no_label(run, planted):
    true = answered_audit(run, planted[0], planted[2])
    before = journal.decisions_in_force(run / "j.csv")
    session = queues.open_session(run, run / "j.csv", reviewer="Bob", known=0.1)
    hidden = session.queue[session.queue["sha256"].isin(session.known)]
    assert len(hidden) == round(0.1 * (~session.queue["sha256"].isin(before["sha256"])).sum())
    assert all(session.decision(sha256) == "" for sha256 in hidden["sha256"]), "as open as any other"
    assert hidden["given"].tolist() == [planted[0].set_index("path")["given_label"][path] for path in hidden["path"]]
    found = session.progress()["errors_found"]
    for path in hidden["path"]:
        session.decide(path, next(name for name in CLASSES if name != true[path]))
    assert session.progress()["decided"] == len(before) and session.progress()["errors_found"] == found
    pd.testing.assert_frame_equal(journal.decisions_in_force(run / "j.csv"), before)
    assert session.undo() == [hidden["path"].iloc[-1]] and session.decision(hidden["sha256"].iloc[-1]) == ""
    session.decide(hidden["path"].iloc[0], true[hidden["path"].iloc[0]], override=False)  # nobody is said to disagree
    again = {who: queues.open_session(run, run / "j.csv", reviewer=who, known=0.1).known for who in ("Bob", "Cem")}
    assert again["Cem"] == session.known, "the same for everybody"
    assert again["Bob"] & session.known == {hidden["sha256"].iloc[-1]}, "but only what is not answered, or undone"
    assert len(queues.open_session(run, run / "j.csv", known=0).queue) == 96


def test_an_escalation_of_a_known_picture_hides_it_at_once(run, planted):
    answered_audit(run, planted[0], planted[2])
    session = queues.open_session(run, run / "j.csv", reviewer="Bob", known=0.1)
    path = session.queue.loc[session.queue["sha256"].isin(session.known), "path"].iloc[0]
    session.decide(path, "escalate")
    assert session.is_escalated(path) and path in session.escalated()["path"].tolist()


def test_accuracy_of_reviewers_is_counted_on_known_pictures_by_whether_the_label_was_right(planted):
    audit = [
        {"sha256": f"{i:064x}", "given_label": "a", "decision": "b" if i < 20 else "a", "kind": "audit"}
        for i in range(60)
    ]
    said = ["b"] * 15 + ["keep"] * 45  # a quarter of the wrong labels is not seen
    bob = [
        line | {"kind": "known", "decision": word, "reviewer": "Bob"} for line, word in zip(audit, said, strict=True)
    ]
    lines = pd.DataFrame([line | {"reviewer": "Dee"} for line in audit] + bob).assign(action=range(120))
    found = queues.known_answers(lines, images=planted[0]).set_index("labels")
    assert found["accuracy"].to_dict() == {"all": 55 / 60, "wrong": 0.75, "right": 1.0}
    assert found["pictures"].tolist() == [60, 20, 40] and found["own"].eq(0).all()
    assert found["low"]["wrong"] < 0.75 < found["high"]["wrong"]
    assert queues.known_answers(lines[:60], images=planted[0]).empty


def test_the_unlabelled_picture_that_is_least_sure_comes_first_and_before_all_suspects():
    issues = pd.DataFrame(
        {"suggested": ["a", "a", "b"], "p_suggested": [0.9, 0.4, 0.8], "score": [np.nan, np.nan, 0.7]}
    )
    queue = queues.review_queue(issues.assign(split="train", given=["", "", "a"], path=list("xyz")))
    assert queue.sort_values("score", ascending=False)["path"].tolist() == ["y", "x", "z"]
