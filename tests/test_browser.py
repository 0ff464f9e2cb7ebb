"""The review grid in a real JupyterLab: keys, mouse, exposure, restarts, speed."""

import json
import os
import re
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from browser import Notebook, find_chromium, open_page, running_jupyter, write_notebook
from PIL import Image

from nsfwlib import data, runs
from nsfwlib.labels import journal

pytestmark = pytest.mark.browser

NAMES = ["checks", "rings", "stripes"]
CASES = """
from pathlib import Path
import numpy as np, pandas as pd
from nsfwlib import files, labels, review
from nsfwlib.review import grid

def make(case, *, n=0, low=0.2, page_size=12, mode="review", copies=(), find=False, **options):
    found = sorted(Path("data").rglob("*.png"))
    paths = [files.table_path(str(file.relative_to("data"))) for file in found]
    given = np.array([path.split("/")[0] for path in paths])
    names = sorted(set(given))
    if n:  # a long queue over the same few pictures
        rows = np.arange(n) % len(found)
        grid.file_path = lambda folder, path: found[int(path) % len(found)]
        paths, given = [str(i) for i in range(n)], given[rows]
    code = np.array([names.index(name) for name in given])
    suggested = np.array(names)[(code + 1) % len(names)]
    score = np.linspace(0.9, low, len(paths))
    queue = pd.DataFrame({"path": paths, "given": given, "suggested": suggested, "score": score})
    queue["sha256"] = [f"{i:064x}" for i in range(len(queue))]
    probs = np.full((len(queue), len(names)), 0.1)
    probs[np.arange(len(queue)), code] = (0.9 - score) / 2
    probs[np.arange(len(queue)), (code + 1) % len(names)] = 0.9 - (0.9 - score) / 2
    images = queue.rename(columns={"given": "given_label"})
    twice = images.iloc[list(copies)].assign(path=lambda rows: "copies/" + rows["path"], given_label="elsewhere")
    session = review.ReviewSession(
        queue.assign(about=queue["given"] + " / " + queue["suggested"]), Path(f"{case}.csv"), class_names=names,
        page_size=page_size, pred_probs=probs, reviewer="Ada", mode=mode,
        images=pd.concat([images, twice]),
    )
    if find:
        about = {"class_names": names, "reviewer": "Ada", "views": {"matrix": ("given", "predicted"), "map": ("x", "y"), "score": "score"}}
        places = {"x": np.cos(code + score / 2), "y": np.sin(code + score / 2)}
        return review.PictureFinder(queue.assign(**places), session.journal, Path("data"), **about)
    neighbours = labels.nearest(probs, queue.rename(columns={"given": "given_label"}), k=4)
    return review.ReviewGrid(session, Path("data"), neighbours=neighbours, **options)
"""
EVIL = ['0 it\'s "quoted".png', "0<script>alert(1)<_script>.png", "0\ntwo lines.png"]  # sorted first


def draw(folder, n=24):
    """Abstract pictures of three kinds."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:180, :240]
    for kind, name in enumerate(NAMES):
        (folder / name).mkdir(parents=True)
        for i in range(n):
            a, b, r = rng.uniform(4, 14, 3)
            wave = [
                np.sin(x / a) * np.sin(y / b),
                np.sin(np.hypot(x - 20 * a, y - 9 * b) / r),
                np.sin((x + y * r / 9) / a),
            ]
            colour = rng.uniform(0.2, 1, 3)
            picture = ((wave[kind][..., None] + 1) / 2 * colour * 255).astype(np.uint8)
            Image.fromarray(picture).save(folder / name / (EVIL[i] if i < len(EVIL) else f"{i:02d}.png"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    if not find_chromium():
        message = "no Chromium: set CHROMIUM to its program, or install chromium"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    folder = tmp_path_factory.mktemp("lab")
    draw(folder / "data")
    (folder / "cases.py").write_text(CASES)
    write_notebook(folder / "review.ipynb", ["import cases", "grid = cases.make(**case)\ngrid"])
    with running_jupyter(folder) as address, open_page() as page:
        lab = Notebook(page, address, "review.ipynb")
        lab.folder, lab.dialogs = folder, []
        page.on("dialog", lambda dialog: (lab.dialogs.append(dialog.message), dialog.dismiss()))
        lab.command("application:toggle-left-area")
        yield lab


@pytest.fixture
def grid(lab, request):
    """A fresh grid with a journal of its own, focus in it."""
    return show(lab, request.node.name.replace("test_", ""))


def show(lab, case, **options):
    lab.execute(f"case = {dict(case=case, **options)!r}")
    lab.run_all()
    lab.page.wait_for_selector(".nsfw-cell")
    lab.journal = lab.folder / f"{case}.csv"
    lab.page.locator(".nsfw-grid").focus()
    return lab


def press(lab, *keys, delay=0):
    for key in keys:
        lab.page.keyboard.press(key, delay=delay)


def settle(lab):
    """Until every decision sent has been answered."""
    lab.page.wait_for_function("() => document.querySelector('.nsfw-review').dataset.pending === '0'")


def decisions(lab):
    settle(lab)
    return journal.decisions_in_force(lab.journal)["decision"].tolist()


def badges(lab):
    return lab.page.locator(".nsfw-badge").all_inner_texts()


def shown_page(lab):
    return int(lab.page.locator(".nsfw-review").get_attribute("data-page"))


def wait_page(lab, number):
    lab.page.wait_for_function(f"() => document.querySelector('.nsfw-review').dataset.page === '{number}'")


def revealed(lab):
    return lab.page.locator(".nsfw-cell.nsfw-revealed").count()


def test_a_page_is_reviewed_by_keyboard_alone(grid):
    press(grid, "k", "3", "d", "?", "e")
    assert badges(grid)[:5] == ["✓ keep", "→ stripes", "✕ drop", "? unsure", "! escalate"]
    assert decisions(grid) == ["keep", "stripes", "drop", "unsure", "escalate"]
    press(grid, "Enter")
    wait_page(grid, 1)
    assert decisions(grid)[5:] == ["rings"] * 7
    press(grid, "PageUp")
    wait_page(grid, 0)
    press(grid, "PageDown")
    wait_page(grid, 1)
    press(grid, "u")
    wait_page(grid, 0)
    assert len(decisions(grid)) == 5
    press(grid, "u", "u", "r")
    settle(grid)
    assert badges(grid)[:4] == ["✓ keep", "→ stripes", "✕ drop", "? unsure"]
    press(grid, "u", "k")  # typed at once, it is meant for the picture that comes back
    assert decisions(grid) == ["keep", "stripes", "drop", "keep"]


def test_the_page_numbers_its_messages_so_that_none_overtakes_another(grid):
    press(grid, "k", "k")
    assert decisions(grid) == ["keep", "keep"]
    path = str(grid.folder / "numbers.txt")
    grid.execute(f"open({path!r}, 'w').write(str(list(grid._inbox._next.values())))")
    assert max(json.loads((grid.folder / "numbers.txt").read_text())) == 4, "to open, and one a key"


def test_a_page_is_reviewed_by_mouse_alone(grid):
    cells, side = grid.page.locator(".nsfw-cell"), grid.page.locator(".nsfw-side")
    cells.nth(2).click()
    side.get_by_role("button", name="stripes").click()
    cells.nth(0).click()
    side.get_by_role("button", name="drop").click()
    assert badges(grid)[0] == "✕ drop"
    assert badges(grid)[2] == "→ stripes"
    cells.nth(4).dblclick()
    grid.page.wait_for_selector(".nsfw-revealed")
    side.get_by_role("button", name="undo").click()
    grid.page.wait_for_function("() => document.querySelector('.nsfw-status').textContent.includes('undo')")
    assert decisions(grid) == ["stripes"]
    grid.page.get_by_role("button", name="Accept page").click()
    wait_page(grid, 1)
    grid.page.get_by_role("button", name="Previous page").click()
    wait_page(grid, 0)
    grid.page.get_by_role("button", name="Next page").click()
    wait_page(grid, 1)


def test_small_pages_share_the_screen_and_enter_accepts_one_of_them(lab):
    grid = show(lab, "sections", low=-0.9, page_size=48)
    heads, cells = grid.page.locator(".nsfw-section"), grid.page.locator(".nsfw-cell")
    assert heads.count() > 2 and cells.count() <= 48
    assert re.match(r"\w+ → \w+\s*\d+ pictures? · about \d+\.\d wrong", heads.nth(0).inner_text())
    first = grid.page.locator(".nsfw-group").first.locator(".nsfw-cell").count()
    press(grid, "d", "Enter")
    assert decisions(grid) == ["drop", *["rings"] * (first - 1)]
    assert heads.nth(1).evaluate("head => head.classList.contains('nsfw-in')"), "the heading follows"
    assert "done" in heads.nth(0).inner_text()
    heads.nth(2).get_by_role("button").click()
    assert len(decisions(grid)) > first
    assert heads.nth(1).evaluate("head => head.classList.contains('nsfw-in')"), "one stays where one was"
    press(grid, "ArrowDown", "ArrowDown")
    assert heads.nth(2).evaluate("head => head.classList.contains('nsfw-in')"), "across the head"
    press(grid, "ArrowUp", "ArrowUp")
    selected = grid.page.locator(".nsfw-cell[aria-selected=true]")
    assert selected.get_attribute("id").endswith(f"-{first}")
    assert shown_page(grid) == 0
    while shown_page(grid) == 0:
        press(grid, "Enter")
        grid.page.wait_for_timeout(200)
    assert shown_page(grid) > 1


def test_a_refused_keep_stays_on_its_picture_and_says_why_until_dismissed(lab):
    grid = show(lab, "copies", copies=[1, 2])
    press(grid, "k", "k", "k", "k")
    assert decisions(grid) == ["keep", "keep"]
    refused, notice = grid.page.locator(".nsfw-cell.nsfw-refused"), grid.page.locator(".nsfw-notice:visible")
    assert refused.count() == 2 and refused.nth(0).locator(".nsfw-remark").inner_text() == "not taken"
    assert "2 not taken. Exact copies" in notice.inner_text()
    refused.nth(0).click()
    press(grid, "k")
    settle(grid)
    assert grid.page.locator(".nsfw-status").inner_text() == "not taken"
    refused.nth(0).click()
    press(grid, "d")
    settle(grid)
    assert refused.count() == 1 and "Exact copies" in notice.inner_text()
    press(grid, "Escape")
    assert refused.count() == 0 and notice.count() == 0


def test_several_pictures_chosen_with_shift_are_one_decision(grid):
    press(grid, "ArrowRight", "Shift+ArrowRight", "Shift+ArrowRight", "2")
    assert badges(grid)[:5] == ["", "→ rings", "→ rings", "→ rings", ""]
    assert decisions(grid) == ["rings"] * 3
    assert journal.read_journal(grid.journal)["action"].nunique() == 1
    press(grid, "k")
    assert badges(grid)[4] == "✓ keep", "the choice is over"
    press(grid, "u", "u")
    settle(grid)
    assert not any(badges(grid))


def test_what_is_typed_while_an_undo_is_on_its_way_waits_for_it(grid):
    press(grid, "2", "3")
    settle(grid)
    slow = "def slow(real=grid.session.catch_up):\n    import time; time.sleep(0.4)\n    real()\ngrid.session.catch_up = slow"
    assert grid.execute(slow) == ""
    press(grid, "k", "u")
    grid.page.wait_for_timeout(600)  # the decision is answered, the undo is not
    press(grid, "u")
    settle(grid)
    assert badges(grid)[:3] == ["→ rings", "", ""] and decisions(grid) == ["rings"]
    grid.execute("del grid.session.catch_up")


def test_a_decided_picture_still_says_what_was_suggested(grid):
    before = grid.page.locator(".nsfw-words").all_inner_texts()
    press(grid, "k", "d")
    settle(grid)
    assert grid.page.locator(".nsfw-words").all_inner_texts() == before and " → " in before[0]


@pytest.mark.parametrize(
    ("width", "height", "scale"), [(800, 900, 1), (1280, 800, 1), (1920, 1080, 1), (1280, 800, 1.5)]
)
def test_the_picture_in_focus_and_its_buttons_stay_in_view_of_a_long_page(lab, width, height, scale):
    lab.page.set_viewport_size({"width": int(width / scale), "height": int(height / scale)})
    try:
        grid = show(lab, f"long_page_{width}_{scale}", page_size=200, low=0.8)
        assert grid.page.locator(".nsfw-cell").count() > 20
        press(grid, "End")
        grid.page.wait_for_timeout(300)
        for part in [
            ".nsfw-current",
            *(f".nsfw-side button:has-text('{name}')" for name in ("stripes", "escalate", "undo")),
        ]:
            box = grid.page.locator(part).first.bounding_box()
            assert 0 <= box["y"] <= box["y"] + box["height"] <= height / scale, part
            assert 0 <= box["x"] <= box["x"] + box["width"] <= width / scale, part
        if height / scale > 600:  # then there is room for what it says of the keys, too
            foot, area = (grid.page.locator(part).bounding_box() for part in (".nsfw-foot", ".jp-WindowedPanel-outer"))
            assert foot["y"] + foot["height"] <= area["y"] + area["height"] + 1
        press(grid, " ")
        grid.page.wait_for_selector(".nsfw-large.nsfw-revealed")
        assert grid.page.locator(".nsfw-large").bounding_box()["width"] >= min(380, width / scale / 2), (
            "it is shown large"
        )
    finally:
        lab.page.set_viewport_size({"width": 1360, "height": 1000})


def test_keys_typed_after_the_last_picture_do_not_overwrite_it_but_escalate_does(grid):
    names = grid.page.locator(".nsfw-class .nsfw-word").all_inner_texts()
    press(grid, "End", "1", "2", "3", "k")
    assert decisions(grid) == [names[0]]
    assert "Enter goes on" in grid.page.locator(".nsfw-status").inner_text()
    press(grid, "u", "2", "3")
    assert decisions(grid) == [names[1]]
    press(grid, "End", "3", "e", "d")
    assert decisions(grid) == ["escalate"]


def test_a_picture_is_sharp_only_while_one_stays_on_it(grid):
    press(grid, " ")
    grid.page.wait_for_selector(".nsfw-cell.nsfw-revealed")
    assert grid.page.locator(".nsfw-cell.nsfw-revealed img").evaluate("image => image.naturalWidth") == 240
    press(grid, "ArrowRight")
    assert revealed(grid) == 0
    press(grid, " ", "ArrowRight")  # left before the answer came
    grid.page.wait_for_timeout(300)
    assert revealed(grid) == 0
    press(grid, " ")
    grid.page.wait_for_selector(".nsfw-cell.nsfw-revealed")
    grid.page.locator(".jp-InputArea-editor").first.click()
    assert revealed(grid) == 0
    grid.page.locator(".nsfw-grid").focus()
    press(grid, " ")
    grid.page.wait_for_selector(".nsfw-cell.nsfw-revealed")
    press(grid, " ")
    assert revealed(grid) == 0


def test_while_b_is_held_the_blur_is_less_and_back_afterwards(grid):
    sources = "() => [...document.querySelectorAll('.nsfw-cell img')].map((image) => image.src)"
    before = grid.page.evaluate(sources)
    grid.page.keyboard.down("b")
    grid.page.wait_for_function(f"(before) => ({sources})().every((source, i) => source !== before[i])", arg=before)
    grid.page.keyboard.up("b")
    assert grid.page.evaluate(sources) == before
    assert decisions(grid) == []


def test_an_escalated_picture_is_gone_before_the_kernel_answers(grid):
    left = grid.page.evaluate(
        """() => {
          const cell = document.querySelector('.nsfw-cell');
          document.querySelector('.nsfw-grid').dispatchEvent(new KeyboardEvent('keydown', { key: 'e', bubbles: true }));
          return cell.querySelectorAll('img').length;
        }"""
    )
    assert left == 0
    settle(grid)
    press(grid, "ArrowLeft", " ")
    grid.page.wait_for_timeout(300)
    assert revealed(grid) == 0
    assert grid.page.locator(".nsfw-large img").count() == 0


def test_fast_typing_loses_no_key(grid):
    keys = list("k1d2?3kk2d13")  # 12 pictures
    start = time.monotonic()
    press(grid, *keys, "u", delay=5)
    assert time.monotonic() - start < 5
    settle(grid)
    lines = journal.read_journal(grid.journal)
    words = {"k": "keep", "d": "drop", "?": "unsure", **{str(i + 1): name for i, name in enumerate(NAMES)}}
    assert lines["decision"].tolist() == [*(words[key] for key in keys), ""]
    assert lines["kind"].iloc[-1] == "undo"


def test_a_key_is_painted_within_50_ms(grid):
    took = []
    for _ in range(3):  # what else the machine does makes it no faster: the best of three counts
        times = grid.page.evaluate(
            """async () => {
              const grid = document.querySelector('.nsfw-grid'), took = [];
              const press = (key) => grid.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));
              press('Home');
              for (let i = 0; i < 10; i++) {
                const badge = document.querySelectorAll('.nsfw-badge')[i], start = performance.now();
                press('k');
                if (badge.textContent !== '✓ keep') throw new Error(badge.textContent);
                await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
                took.push(performance.now() - start);
                await new Promise((done) => setTimeout(done, 60));
              }
              return took;
            }"""
        )
        took.append(statistics.median(times))
    print(f"key to paint: median {min(took):.0f} ms")
    assert min(took) < 50


def test_the_page_of_a_long_queue_turns_within_300_ms(lab):
    try:
        grid = show(lab, "long", n=100_000)
        took = []
        for number in range(1, 6):
            time.sleep(0.5)  # a reviewer looks at the page; the next is made ready meanwhile
            took.append(
                grid.page.evaluate(
                    """(number) => new Promise((done) => {
                      const root = document.querySelector('.nsfw-review'), start = performance.now();
                      new MutationObserver(() => {
                        if (root.dataset.page === String(number)) done(performance.now() - start);
                      }).observe(root, { attributes: true });
                      root.querySelector('.nsfw-grid').dispatchEvent(new KeyboardEvent('keydown', { key: 'PageDown', bubbles: true }));
                    })""",
                    number,
                )
            )
    finally:  # the pictures of a long queue are no more those of the next test
        lab.execute("import importlib; importlib.reload(cases.grid); importlib.reload(cases)")
    print(f"page change: median {statistics.median(took):.0f} ms")
    assert statistics.median(took) < 300


def test_no_key_reaches_jupyterlab(grid):
    cells = grid.page.locator(".jp-Notebook .jp-Cell")
    before = cells.count()
    grid.command("notebook:enter-command-mode")
    for part in (".nsfw-cell", ".nsfw-side button"):
        grid.page.locator(part).first.click()
        press(grid, *"xxabmcvzdd", "0", "0", "i", "i", "l", "j", "k", "Delete", "Escape")
        assert grid.page.evaluate("() => document.activeElement.className") == "nsfw-grid"
    grid.page.locator(".nsfw-side button").first.focus()
    press(grid, *"xxabmcv", "j", "k")
    settle(grid)
    assert cells.count() == before
    assert grid.page.evaluate("() => document.activeElement.closest('.nsfw-side') !== null")
    assert grid.execute("print(type(grid).__name__)").strip() == "ReviewGrid"


def test_reviewing_goes_on_after_a_kernel_restart(grid):
    press(grid, "k", "d")
    assert decisions(grid) == ["keep", "drop"]
    first = grid.page.locator(".nsfw-name").inner_text()
    grid.restart_kernel()
    again = show(grid, grid.journal.stem)
    assert "2 of 72 decided" in grid.page.locator(".nsfw-counts").inner_text()
    assert again.page.locator(".nsfw-name").inner_text() == first
    press(again, "u")
    settle(again)
    assert decisions(again) == ["keep"]


def test_what_a_dead_kernel_did_not_save_is_said(grid):
    grid.execute("grid._inbox.take = lambda message: None")
    press(grid, "k")
    grid.page.wait_for_selector(".nsfw-notice:visible", timeout=8000)
    assert "1 not saved yet" in grid.page.locator(".nsfw-notice:visible").inner_text()


def test_a_saved_notebook_holds_no_pixel(grid):
    press(grid, " ")
    grid.page.wait_for_selector(".nsfw-cell.nsfw-revealed")
    grid.command("docmanager:save")
    grid.page.wait_for_function("() => !jupyterapp.shell.currentWidget.context.model.dirty")
    text = (grid.folder / "review.ipynb").read_text()
    saved = json.loads(text)
    assert "widgets" not in saved["metadata"]
    assert "application/vnd.jupyter.widget-view+json" in text
    assert not re.search(r"image/(jpeg|png)|/9j/|iVBOR|JFIF", text)


def test_names_with_quotes_markup_and_newlines_do_no_harm(grid):
    for _ in range(12):
        press(grid, "k")
    assert len(decisions(grid)) == 12
    assert grid.dialogs == []
    assert grid.page.locator(".nsfw-none").count() == 0
    paths = set(journal.decisions_in_force(grid.journal)["path"])
    assert any("<script>" in path for path in paths)
    assert any("quoted" in path for path in paths)
    assert any("lines" in path for path in paths)


def test_a_screen_reader_hears_the_decision(grid):
    listbox = grid.page.get_by_role("listbox", name="Pictures of this page")
    assert listbox.get_by_role("option").count() == 12
    press(grid, "d")
    assert grid.page.get_by_role("status").filter(has_text="Picture 1: drop").count() == 1
    options = listbox.get_by_role("option")
    assert "drop" in options.nth(0).get_attribute("aria-label")
    assert options.nth(1).get_attribute("aria-selected") == "true"
    assert listbox.get_attribute("aria-activedescendant") == options.nth(1).get_attribute("id")
    names = grid.page.locator(".nsfw-review button").evaluate_all(
        "buttons => buttons.map((b) => b.getAttribute('aria-label') || b.textContent.trim())"
    )
    assert all(names)
    unmarked = ".nsfw-review :is(button, [tabindex]):not([data-lm-suppress-shortcuts])"
    assert grid.page.locator(unmarked).count() == 0, "JupyterLab would take keys from these"
    press(grid, "Tab")
    assert grid.page.evaluate("() => document.activeElement.tagName") == "BUTTON"


def test_help_and_neighbours_open_and_close(grid):
    press(grid, "h")
    dialog = grid.page.get_by_role("dialog", name="Keys and guidelines")
    assert all(sign in dialog.inner_text() for sign in ("alike", "two labels", "bar"))
    dialog.locator("dt").first.click()
    press(grid, "d")
    assert badges(grid)[0] == "✕ drop", "keys work while it is open"
    press(grid, "Escape", "n")
    assert not dialog.is_visible()
    grid.page.wait_for_selector(".nsfw-item")
    assert grid.page.locator(".nsfw-item").count() == 4
    item, panel = (grid.page.locator(part).first.bounding_box() for part in (".nsfw-item", ".nsfw-side"))
    assert abs(item["y"] - panel["y"]) < 60 and item["x"] < panel["x"], "beside the picture"
    grid.page.locator(".nsfw-item").first.click()
    canvas = grid.page.locator(".nsfw-large.nsfw-compared canvas")
    canvas.wait_for()
    orange = canvas.evaluate(
        """(canvas) => {
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          let count = 0;
          for (let i = 0; i < data.length; i += 4) count += data[i] === 200 && data[i + 1] === 80;
          return count / (data.length / 4);
        }"""
    )
    assert 0 < orange < 1, "where they differ, and there alone"
    press(grid, "ArrowRight")
    assert grid.page.locator(".nsfw-item").count() == 0 and canvas.count() == 0


def test_a_break_is_suggested_after_a_while(lab):
    grid = show(lab, "break", break_minutes=1 / 60)
    press(grid, "k")
    grid.page.wait_for_timeout(1200)
    press(grid, "k")
    assert "without a break" in grid.page.locator(".nsfw-pause:visible").inner_text()
    grid.page.get_by_role("button", name="carry on").click()
    assert grid.page.locator(".nsfw-pause:visible").count() == 0 and decisions(grid) == ["keep", "keep"]


def test_a_note_is_typed_with_the_same_letters_that_decide(grid):
    press(grid, "c", *"kd 2", "Enter", "d")
    assert badges(grid)[:2] == ["✕ drop", ""]
    settle(grid)
    lines = journal.read_journal(grid.journal)
    assert lines[["kind", "decision"]].to_numpy().tolist() == [["note", "kd 2"], ["decision", "drop"]]
    press(grid, "c", *"kk", "Escape", "k")
    assert badges(grid)[:3] == ["✕ drop", "✓ keep", ""]
    assert len(decisions(grid)) == 2 and len(journal.read_journal(grid.journal)) == 3, "Escape writes no note"


def test_a_decision_that_overrules_somebody_elses_says_so_first(grid):
    for row in (1, 11):
        queue = f"grid.session.queue[['sha256', 'path']].iloc[{row}].to_dict()"
        grid.execute(
            f"labels = cases.labels; labels.append_decisions(grid.session.journal, {queue} | {{'decision': 'drop', 'reviewer': 'Bea'}})"
        )
    press(grid, "k", "2")
    settle(grid)
    refused, notice = grid.page.locator(".nsfw-cell.nsfw-refused"), grid.page.locator(".nsfw-notice:visible")
    assert refused.count() == 1 and "Bea decided 'drop'" in notice.inner_text()
    assert badges(grid)[:2] == ["✓ keep", "✕ drop"]
    press(grid, "ArrowLeft", "2")
    assert sorted(decisions(grid)) == ["drop", "keep", "rings"] and refused.count() == 0
    press(grid, "End", "3")
    settle(grid)
    press(grid, "3")  # the last picture here, too, may be decided once more where that was refused
    assert sorted(decisions(grid)) == ["keep", "rings", "stripes"] and refused.count() == 0


def test_a_cell_of_a_matrix_and_a_lasso_on_a_map_open_the_grid_on_their_pictures(lab):
    asked = []
    lab.page.on("request", lambda request: asked.append(request.url))
    lab.execute(f"case = {dict(case='finder', find=True)!r}")
    lab.run_all()
    area = lab.page.locator(".js-plotly-plot .nsewdrag").first
    area.wait_for(timeout=60_000)
    box = area.bounding_box()
    lab.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 6)
    lab.page.wait_for_selector(".js-plotly-plot .hoverlayer text")
    lab.page.wait_for_timeout(1000)  # the browser tells the last of two events only, if the first was not yet heard
    lab.page.mouse.down()
    lab.page.mouse.up()
    lab.page.wait_for_selector(".nsfw-cell")
    assert lab.page.locator(".nsfw-title").first.inner_text() == "Filed under checks, looks like rings"
    assert "0 of 24 decided" in lab.page.locator(".nsfw-counts").inner_text()
    lab.page.locator(".widget-dropdown select").first.select_option("map")
    lab.page.wait_for_selector(".js-plotly-plot .scatterlayer .point")
    box = area.bounding_box()
    corners = [(0.01, 0.01), (0.99, 0.01), (0.99, 0.99), (0.01, 0.99), (0.01, 0.01)]
    for i, (across, down) in enumerate(corners):
        lab.page.mouse.move(box["x"] + box["width"] * across, box["y"] + box["height"] * down, steps=4)
        if i == 0:
            lab.page.mouse.down()
    lab.page.mouse.up()
    lab.page.wait_for_function("() => document.querySelector('.nsfw-counts').innerText.includes('of 72 decided')")
    lab.page.locator(".widget-dropdown select").first.select_option("score")
    lab.page.wait_for_selector(".js-plotly-plot .barlayer .point path")
    lab.page.wait_for_timeout(1000)
    bar = lab.page.locator(".js-plotly-plot .barlayer .point").nth(3).bounding_box()
    lab.page.mouse.move(bar["x"] + bar["width"] / 2, bar["y"] + bar["height"] / 2)
    lab.page.wait_for_timeout(1500)
    lab.page.mouse.down()
    lab.page.mouse.up()
    lab.page.wait_for_function("() => !document.querySelector('.nsfw-counts').innerText.includes('of 72 decided')")
    of_bin = (
        "scores = grid.grid.session.queue['score']; print(0 < len(scores) < 9 and scores.max() - scores.min() < 0.06)"
    )
    assert lab.execute(of_bin).strip() == "True"
    lab.page.locator(".nsfw-grid").focus()
    press(lab, "d")
    lab.journal = lab.folder / "finder.csv"
    assert decisions(lab) == ["drop"]
    inside = ("data:", "blob:", lab.page.url.split("/lab")[0])
    assert [url for url in asked if not url.startswith(inside)] == [], "nothing leaves the machine"


KINDS = {"audit": "audit", "second": "second", "disagreement": "resolution"}


@pytest.mark.parametrize("mode", KINDS)
def test_a_blind_page_shows_pictures_alone_and_each_is_given_a_class(lab, mode):
    blind = show(lab, f"blind_{mode}", mode=mode)
    before = badges(blind)
    words = blind.page.locator(".nsfw-words").all_inner_texts()
    assert all(" / " in word if mode == "disagreement" else word == "" for word in words) and not any(before)
    panel = blind.page.locator(".nsfw-review").inner_html()
    assert ".png" not in panel and "filed under" not in panel, "file names and labels stay away"
    assert blind.page.get_by_role("button", name="keep").count() == 0
    press(blind, "k")
    assert badges(blind) == before
    press(blind, "2", "d", "?", "n")
    settle(blind)
    blind.page.wait_for_selector(".nsfw-strip:not([hidden])")
    assert "give the label away" in blind.page.locator(".nsfw-strip").inner_text()
    assert badges(blind)[:3] == ["→ rings", "✕ drop", "? unsure"]
    lines = journal.read_journal(blind.journal)
    assert lines["kind"].tolist() == [KINDS[mode]] * 3 and lines["suggested"].eq("").all()
    press(blind, "Enter")
    wait_page(blind, 1)
    assert len(journal.read_journal(blind.journal)) == 3, "Enter turns the page and accepts nothing"


def leave_a_run(folder):
    """What 01, 03 and 05 leave of the drawn pictures: each label more or less suspected, every file scored."""
    for part in ("run", "scores"):
        (folder / part).mkdir()
    table = data.scan(folder / "data", cache_dir=folder / "cache").assign(split="train", source="")
    table["group"] = range(len(table))
    given = table["given_label"]
    suggested = given.map(dict(zip(NAMES, NAMES[1:] + NAMES[:1], strict=True)))
    score, probs = np.linspace(0.9, -0.9, len(table)), pd.get_dummies(suggested)[NAMES].astype(float)
    issues = table[["path", "sha256", "split", "group"]].assign(given=given, suggested=suggested, score=score)
    runs.write_table(table, folder / "run" / "images.parquet")
    runs.write_table(issues.assign(p_suggested=0.6), folder / "run" / "label_issues.parquet")
    runs.write_table(probs.assign(path=table["path"]), folder / "run" / "pred_probs.parquet")
    scored = pd.concat([table[["path", "sha256"]], probs, probs.add_suffix("_max")], axis=1).assign(predicted=suggested)
    runs.write_table(scored.assign(problem=""), folder / "scores" / "scores.parquet")
    asked = {"pictures_dir": folder / "data", "journal_file": "", "unsafe_classes": NAMES[:1]}
    runs.write_json(asked | {"threshold": 0.5, "least": 0}, folder / "scores" / "flagged.json")


def test_the_reviewers_page_is_walked_through_by_its_make_target(lab):
    leave_a_run(lab.folder)
    root = Path(__file__).parents[1]
    command = ("make", "-f", str(root / "Makefile"), "-o", f"{sys.prefix}/review", f"VENV={sys.prefix}", "review")
    (lab.folder / "notebooks").symlink_to(root / "notebooks")
    page = SimpleNamespace(page=lab.page.context.browser.new_page(), journal=lab.folder / "data_decisions.csv")
    asked, wrong = [], []
    page.page.on("request", lambda request: asked.append(request))
    page.page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    page.page.on("pageerror", lambda error: wrong.append(str(error)))
    with running_jupyter(lab.folder, command=(*command, "DATA=data", "RUN=run", "SCORES=scores", "REVIEWER=Ada")) as at:
        page.page.goto(at, wait_until="commit", timeout=60_000)
        page.page.wait_for_selector(".nsfw-cell:visible", timeout=60_000)
        assert "you are Ada" in page.page.locator(".nsfw-counts:visible").inner_text()
        page.page.locator(".lm-TabBar-tab", has_text="progress").click()
        page.page.get_by_text("Nobody has decided anything yet.").wait_for()
        page.page.locator(".lm-TabBar-tab", has_text="review").click()
        page.page.locator(".nsfw-grid:visible").focus()
        press(page, "d")
        heads = page.page.locator(".nsfw-section:visible")
        heads.nth(0).get_by_role("button").click()
        said = decisions(page)
        assert said[0] == "drop" and len(said) > 1 and {*said[1:]} == {"rings"}
        press(page, "u")
        settle(page)
        assert decisions(page) == ["drop"]
        press(page, " ")
        page.page.wait_for_selector(".nsfw-cell.nsfw-revealed:visible")
        press(page, " ")
        assert revealed(page) == 0
        page.page.locator(".lm-TabBar-tab", has_text="flagged").click()
        assert "score 1.00" in page.page.locator(".nsfw-words:visible").first.inner_text(), "no share of its class"
        page.page.locator(".nsfw-grid:visible").focus()
        press(page, "2")
        page.page.locator(".nsfw-badge:visible", has_text="rings").wait_for()
        page.page.locator(".lm-TabBar-tab", has_text="progress").click()
        page.page.locator("td:visible").first.wait_for()
        table = page.page.locator("table:visible").inner_text()
        page.page.close()
    assert re.search(r"decision\s+reveal\s+revealed\s+minutes\s+last\s+reviewer\s+Ada\s+1\s+1\s+0\.5", table)
    lines = journal.read_journal(page.journal)
    assert lines["kind"].drop_duplicates().tolist() == ["decision", "undo", "reveal"]
    assert set(lines["reviewer"]) == {"Ada"}
    flagged = journal.read_journal(lab.folder / "scores" / "flagged_decisions.csv")
    assert flagged["decision"].tolist() == ["rings"], "and none of it in the journal that training reads"
    away = [request for request in asked if not request.url.startswith(("data:", "blob:", at))]
    assert {request.failure for request in away} <= {"csp"}, "what the template asks for never leaves the machine"
    assert [text for text in wrong if "Content Security Policy" not in text] == []
