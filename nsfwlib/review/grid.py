"""How does a person see a `ReviewSession` in a notebook? As a view with keys; every rule lives in `session`.

Control over exposure: the pixels that reach the browser are already blurred, grey and small. A sharp picture travels
alone, when somebody asks for it, and is gone when they leave it. Pixels are sent as messages and never kept in the
widget's state, so neither a saved notebook nor saved widget state can hold one.
"""

import html
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets
import numpy as np
import pandas as pd
import traitlets

from nsfwlib import runs
from nsfwlib.data import SPLITS, ImageProblem, blurred_thumbnail, encode_jpeg
from nsfwlib.evaluate import audit_width, load_audit
from nsfwlib.files import file_path, spreadsheet_safe
from nsfwlib.review.queues import open_session
from nsfwlib.review.session import ReviewSession

THUMBNAIL, REVEALED = 192, 640  # pixels on the long side
LUMA = np.array([0.299, 0.587, 0.114])
HOLD_SECONDS = 60  # after so long a missing message counts as lost
LOOKS = ("blur", "blurs", "grey", "hidden", "guidelines", "reasons")
Message = dict[str, Any]
Shown = tuple[bytes, str]  # a JPEG and "", or b"" and the reason why there is no picture


class PictureStore:
    """Small pictures of the pages in view and next, in the kernel's memory only; decoded side by side in threads."""

    def __init__(self, data_dir: Path, *, keep: int = 256) -> None:
        self.data_dir = Path(data_dir)
        self.small = lru_cache(keep)(partial(self._decoded, size=THUMBNAIL))
        self.blurred = lru_cache(keep)(self._blurred)
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="pictures")

    def _decoded(self, path: str, *, size: int) -> np.ndarray:
        return blurred_thumbnail(file_path(self.data_dir, path), size=size, blur=0, grey=False)

    def _blurred(self, path: str, blur: float, grey: float) -> Shown:
        """The picture as shown before anybody asked for more."""
        try:
            picture = self.small(path)
        except ImageProblem as problem:
            return b"", problem.reason
        picture = blurred_thumbnail(picture, size=THUMBNAIL, blur=blur, grey=False)
        mixed = (1 - grey) * picture + grey * (picture @ LUMA)[..., None]
        return encode_jpeg(np.rint(mixed).astype(np.uint8)), ""

    def page(self, paths: Collection[str], *, blurs: Iterable[float], grey: float) -> Iterator[Shown]:
        """`blurred` of several pictures at once; they are made ready in the background, looked at or not."""
        return self._threads.map(lambda path, blur: self.blurred(path, blur, grey), paths, blurs)

    def sharp(self, path: str) -> bytes:
        """JPEG bytes of the picture itself, decoded anew, not kept; an ImageProblem if it cannot be read any more."""
        return encode_jpeg(self._decoded(path, size=REVEALED), quality=85)


class PageView(anywidget.AnyWidget):
    """The page in the browser (`grid.js`): it asks and is answered by messages, and its state holds no picture."""

    _esm = Path(__file__).with_name("grid.js")
    _css = Path(__file__).with_name("grid.css")
    classes = traitlets.List(traitlets.Unicode()).tag(sync=True)
    mode = traitlets.Unicode("review").tag(sync=True)
    guidelines = traitlets.Unicode("").tag(sync=True)
    reasons = traitlets.List(traitlets.Unicode()).tag(sync=True)
    break_minutes = traitlets.Float(0.0).tag(sync=True)


class ReviewGrid(ipywidgets.VBox):
    """The review grid: a page of blurred pictures with keys and buttons, filters, exposure and progress.

    Args:
        session: holds the queue, the decisions and all rules.
        data_dir: where the paths of the queue lie.
        blur: radius of the blur in pixels of a 192 px thumbnail.
        blurs: class → another radius for whatever may be of that class; not where labels are not shown.
        grey: 0 = as coloured as the picture, 1 = grey.
        hidden: classes whose pictures are not shown at all, whether given or suggested.
        guidelines: a Markdown file with your own definition of the classes, shown by `h`.
        reasons: what is offered where a note on a picture is typed.
        neighbours: path → table with the columns path, given_label, similarity (see `labels.nearest`).
        rescore: session → table for `ReviewSession.rerank`; adds the button "Re-rank".
        break_minutes: after so many minutes of work comes a reminder; 0 = never.
        says: gives a sentence to stand beside the progress with every page, such as `evaluate.audit_progress`.
    """

    def __init__(
        self,
        session: ReviewSession,
        data_dir: Path,
        *,
        blur: float = 6.0,
        blurs: Mapping[str, float] | None = None,
        grey: float = 1.0,
        hidden: Collection[str] = (),
        guidelines: Path | None = None,
        reasons: Sequence[str] = (),
        neighbours: Callable[[str], pd.DataFrame] | None = None,
        rescore: Callable[[ReviewSession], pd.DataFrame] | None = None,
        break_minutes: float = 25.0,
        says: Callable[[], str] = str,
    ) -> None:
        self.session, self.store, self.blurs = session, PictureStore(data_dir), dict(blurs or {})
        self.neighbours, self.rescore = neighbours, rescore
        self.says, self._said = says, says()
        self.revealed, self._worked, self._asked = 0, 0.0, set()
        self._contents, self._n_escalated = {}, -1
        about: dict[str, Any] = {"reasons": [*reasons], "break_minutes": break_minutes}
        if guidelines:
            import mistune  # comes with JupyterLab's nbconvert

            markdown = mistune.create_markdown(escape=True, plugins=["table"])  # raw HTML is shown as text
            about["guidelines"] = str(markdown(Path(guidelines).read_text("utf-8")))
        self.view = PageView(classes=session.class_names, mode=session.mode, **about)
        self._inbox = InOrder(self._handle)
        self.view.on_msg(lambda _, message, __: self._inbox.take(message))
        self.escalated = ipywidgets.Accordion([ipywidgets.HTML()], layout={"display": "none"})
        self.bar = ipywidgets.IntProgress(layout={"width": "190px"}, _dom_classes=["nsfw-progress"])
        self.counts = ipywidgets.HTML(layout={"flex": "1 1 0%"}, _dom_classes=["nsfw-counts"])
        bars = [self._make_paging(), self._make_exposure(blur, grey, hidden), ipywidgets.HBox([self.bar, self.counts])]
        super().__init__([*bars, self.view, self.escalated], _dom_classes=["nsfw-panel"])
        self._begin()
        self._count()

    def show(self, session: ReviewSession) -> None:
        """Show another session of the same classes and mode; exposure stays as it is."""
        self.session, self._contents = session, {}
        self._begin()
        self._send_page()

    def _begin(self) -> None:
        self._fill_pairs()
        self.bar.max = max(1, len(self.session.queue))
        self._fill_screen(self.session.first_open_page())

    def __repr__(self) -> str:
        return f"ReviewGrid({_count(self.session.n_pages, 'page')}, {self.session.journal.name})"

    def _make_paging(self) -> ipywidgets.HBox:
        wide = {"layout": {"width": "330px"}, "style": {"description_width": "40px"}}
        self.pair = ipywidgets.Dropdown(description="Show", **wide)
        self.open_only, self.message = _toggle("open pages only"), ipywidgets.HTML()
        again = [_button("Re-rank", self._rerank)] if self.rescore and not self.session.blind else []
        for control in (self.pair, self.open_only):
            control.observe(self._filter, "value")
        return ipywidgets.HBox([self.pair, self.open_only, *again, _button("Export", self._export), self.message])

    def _fill_pairs(self) -> None:
        pages = self.session.pages()
        pages = pages[~pages["is_control"] & (not self.session.blind)]
        sizes = pages.groupby(["given", "suggested"], observed=True, sort=False).size()
        options = [(f"{pair[0]} → {pair[1]}, {_count(n, 'page')}", pair) for pair, n in sizes.items()]
        everything = "all, in the order drawn" if self.session.blind else "all pairs, most to find first"
        self.pair.unobserve(self._filter, "value")  # the pages in view must stay
        self.pair.options = [(everything, ()), *options]
        self.pair.index = 0
        self.pair.observe(self._filter, "value")

    def _make_exposure(self, blur: float, grey: float, hidden: Collection[str]) -> ipywidgets.HBox:
        slim = {"style": {"description_width": "34px"}, "layout": {"width": "190px"}}
        slim |= {"continuous_update": False, "readout_format": ".1f"}
        self.blur = ipywidgets.FloatSlider(blur, min=0, max=16, step=0.5, description="Blur", **slim)
        self.grey = ipywidgets.FloatSlider(grey, min=0, max=1, step=0.1, description="Grey", **slim)
        self.hide = {name: _toggle(name, name in hidden, f"hide {name}") for name in self.session.class_names}
        for control in (self.blur, self.grey, *self.hide.values()):
            control.observe(lambda _: self._send_page(), "value")
        return ipywidgets.HBox([self.blur, self.grey, ipywidgets.Label("Hide"), *self.hide.values()])

    def _handle(self, message: Message) -> None:
        message = {"also": [], **message}
        handlers = {
            "open": lambda m: self._send_page(),
            "decide": self._decide,
            "accept": lambda m: self.session.accept_page(m["page"], skip=m["skip"], seconds=m["seconds"]),
            "note": lambda m: self.session.note(m["path"], m["text"]),
            "undo": self._take_back,
            "redo": self._take_back,
            "reveal": self._reveal,
            "details": self._details,
            "less": self._less,
            "go": lambda m: self._go(int(m["step"])),
        }
        if message.get("op") not in handlers:  # "still" of a page that waits for an answer among them
            return
        try:
            self.session.catch_up()
            message["seconds"] = float(message.get("seconds") or 0.0)
            self._worked += message["seconds"]
            handlers[message["op"]](message)
            if message["op"] in ("decide", "accept", "note"):
                self._send_state(message, text="noted" * (message["op"] == "note"))
        except (ValueError, KeyError, IndexError, OSError) as error:
            paths = [message.get("path"), *message["also"]] if message["op"] == "decide" else []
            self.view.send({"t": "problem", "text": _sentence(error), "paths": paths})
            self._send_state(message)

    def _decide(self, message: Message) -> None:
        key = message["path"], message["decision"], *message["also"]
        how = {"also": message["also"], "seconds": message["seconds"], "override": key in self._asked}
        self._asked.add(key)  # whoever says it once more has been told whose decision it overrules
        self.session.decide(message["path"], message["decision"], **how)

    def _take_back(self, message: Message) -> None:
        paths = self.session.undo() if message["op"] == "undo" else self.session.redo()
        if paths:
            page = self.session.page_of(paths[0])
            if page not in self.screen:
                self._fill_screen(page)
            self._send_page(at=paths[0])
        text = f"{message['op']}: {_count(len(paths), 'picture')}" if paths else f"nothing to {message['op']}"
        self._send_state(message, text=text)

    def _reveal(self, message: Message) -> None:
        path = message["path"]
        ((data, why),) = self._pixels([path], lambda paths: [(self.store.sharp(path), "") for path in paths])
        if why:
            raise ValueError(f"This picture is not shown: {why}.")
        self.revealed += 1
        self.view.send({"t": "reveal", "path": path}, [data])
        self.session.note(path, "", kind="reveal")
        self._count()

    def _less(self, _: Message) -> None:
        paths = [*self._contents]
        made = self._pixels(paths, partial(self._blurred, part=1 / 3))
        self.view.send({"t": "less", "paths": paths}, [data for data, _ in made])

    def _details(self, message: Message) -> None:
        """Send the group's other members, then the neighbours that voted; blind none: they have labels."""
        path, known = message["path"], self.session.images[: 0 if self.session.blind else None]
        group = known.loc[known["path"] == path, "group"]
        rows = known[known["group"].isin(group) & (known["path"] != path)].assign(why="near-duplicate")
        if self.neighbours is not None and not self.session.blind:
            voted = self.neighbours(path)
            voted = voted.assign(why=voted["similarity"].map("similarity {:.2f}".format))
            rows = pd.concat([rows, voted], ignore_index=True)
        rows[["data", "note"]] = pd.DataFrame(self._pixels(rows["path"], self._blurred), rows.index, ["data", "note"])
        rows = rows[rows["note"].ne("escalated")].rename(columns={"given_label": "label"})
        shown = rows[["label", "why", "note"]].to_dict("records")
        self.view.send({"t": "details", "path": path, "rows": shown}, rows["data"].tolist())

    def _send_page(self, *, at: str = "") -> None:
        """Send the pages in view; the first undecided picture has the focus if no other is named."""
        if not self.session.n_pages:
            self.view.send({"t": "page", "page": 0, "focus": 0, "rows": [], "sections": []}, [])
            return
        self.session.catch_up()
        rows = self.session.page(*self.screen)
        self._contents = dict(zip(rows["path"], rows["sha256"], strict=True))
        focus = int((rows["path"].eq(at) if at else rows["decision"].eq("")).argmax())
        pictures = self._pixels(rows["path"], self._blurred)
        shown = [self._row(row, note) for row, (_, note) in zip(rows.to_dict("records"), pictures, strict=True)]
        sections = [self._section(page, about) for page, about in self.session.pages().loc[self.screen].iterrows()]
        message = {"t": "page", "page": self.screen[0], "focus": focus, "rows": shown, "sections": sections}
        self.view.send(message, [data for data, _ in pictures])
        self._said = self.says()
        self._count()
        following = self.session.page(*self._screen_after(1, self.screen))["path"]
        self._blurred([path for path in following if not self._why_hidden(path)])

    def _why_hidden(self, path: str) -> str:
        return self.session.why_hidden(path, {name for name, switch in self.hide.items() if switch.value})

    def _pixels(self, paths: Collection[str], make: Callable[[list[str]], Iterable[Shown]]) -> list[Shown]:
        """The one door for pixels: bytes and "" for what may be shown, else b"" and why not, in the order of `paths`.

        Asked before the files are read and, of the journal as it is by then, again before anything leaves.
        """
        self.session.catch_up()
        before = {path: self._why_hidden(path) for path in paths}
        visible = [path for path, why in before.items() if not why]
        made = dict(zip(visible, make(visible), strict=True))
        self.session.catch_up()
        notes = [before[path] or self._why_hidden(path) for path in paths]
        return [(b"", note) if note else made[path] for path, note in zip(paths, notes, strict=True)]

    def _blurred(self, paths: Collection[str], *, part: float = 1.0) -> Iterator[Shown]:
        return self.store.page(paths, blurs=[part * self._blur_of(path) for path in paths], grey=self.grey.value)

    def _blur_of(self, path: str) -> float:
        """That of the class that asks for most, of all that the picture may show; blind, it would tell the label."""
        classes = () if self.session.blind else self.session.classes_of(path)
        return max([self.blurs.get(name, self.blur.value) for name in classes], default=self.blur.value)

    def _row(self, row: Message, note: str) -> Message:
        probs = None if self.session.pred_probs is None else self.session.pred_probs.loc[row["path"]]
        # On a page drawn at random the label beside "class hidden" would tell what was suggested.
        withheld = row["is_control"] and note == "class hidden"
        given, suggested = str(row["given"]) * (not withheld), str(row["suggested"]) * (not row["is_control"])
        pair = {"p_given": given, "p_suggested": suggested}
        odds = {p: row.get(p, np.nan if probs is None else probs.get(name, np.nan)) for p, name in pair.items()}
        about = row["about"] if self.session.mode == "disagreement" else ""
        return {
            **{"path": row["path"], "given": given, "suggested": suggested, "decision": row["decision"], "note": note},
            **{"about": about, "conflict": row["conflict"], "alike": row["alike"]},
            "name": "" if self.session.blind or withheld else row["path"],
            "group": str(row.get("group", row["path"])),
            "section": self.screen.index(row["page"]),
            "sure": next(filter(np.isfinite, [odds["p_suggested"], row["score"]]), None) if suggested else None,
            **(odds if suggested and np.isfinite([*odds.values()]).all() else dict.fromkeys(odds)),
            "probs": probs.tolist() if probs is not None and suggested and np.isfinite(probs).all() else None,
        }

    def _section(self, page: int, about: pd.Series) -> Message:
        rows, wrong, drawn = int(about["rows"]), float(about["expected_errors"]), bool(about["is_control"])
        pair = {name: "" if drawn else about[name] for name in ("given", "suggested")}
        facts = {"rows": rows, "wrong": wrong, "drawn": drawn, "default": self.session.page_default(page)}
        return {"page": page, "of": self.session.n_pages, **pair, **facts}

    def _send_state(self, message: Message, *, text: str = "") -> None:
        state = {path: self.session.decision(sha256) for path, sha256 in self._contents.items()}
        notes = {path: self._why_hidden(path) for path in self._contents}
        self.view.send({"t": "state", "seq": message["seq"], "decisions": state, "notes": notes, "text": text})
        self._count()

    def _screen_after(self, step: int, screen: list[int]) -> list[int]:
        """The pages to show after (or before) these: as many as make a full page together, one if there is one."""
        pages = self.session.pages()
        pages = pages[pages.index > screen[-1]] if step > 0 else pages[pages.index < screen[0]][::-1]
        if self.pair.value:
            pages = pages[pages[["given", "suggested"]].eq([*self.pair.value]).all(axis=1) & ~pages["is_control"]]
        if self.open_only.value:
            pages = pages[pages["decided"] < pages["rows"]]
        first = pages["rows"][: self.session.page_size]
        fits = int((first.cumsum() <= self.session.page_size).sum())
        return sorted(first.index[: max(fits, 1)].tolist())

    def _fill_screen(self, page: int) -> None:
        screen = self._screen_after(1, [page - 1])
        self.screen = screen if page in screen else [page]  # a filter may hide it

    def _go(self, step: int) -> None:
        following = self._screen_after(step, self.screen)
        self.message.value = "" if following else f"This is the {'last' if step > 0 else 'first'} page."
        self.screen = following or self.screen
        self._send_page()

    def _filter(self, _: Any = None) -> None:
        self.screen = self._screen_after(1, [-1]) or self.screen
        self._send_page()

    def _rerank(self) -> None:
        self.message.value = "re-ranking …"
        self.screen = self.session.rerank(self.rescore(self.session), in_view=self.screen)
        self._fill_pairs()
        self.message.value = "re-ranked: the pages in view have not changed"
        self._send_page()

    def _export(self) -> None:
        table, journal = self.session.decisions(), self.session.journal
        path = journal.with_name(f"{journal.stem}_in_force.csv")
        spreadsheet_safe(table).to_csv(path, index=False, errors="surrogateescape")
        self.message.value = html.escape(f"{_count(len(table), 'decision')} in force → {path}")

    def _count(self) -> None:
        p = self.session.progress()
        self.bar.value = p["decided"]
        rate = f" ({60 * p['errors_found'] / p['seconds']:.1f} a minute)" if p["seconds"] > 60 else ""
        errors = "" if self.session.blind else f"{_count(p['errors_found'], 'error')} found{rate}"
        sitting = f"this sitting: {self.revealed:,} revealed, {self._worked / 60:.0f} min"
        parts = [f"{p['decided']:,} of {p['rows']:,} decided", errors, f"{p['unsure']:,} unsure", sitting]
        said = [*parts, self.session.reviewer and f"you are {self.session.reviewer}", self._said]
        self.counts.value = " · ".join(html.escape(part) for part in said if part)
        if p["escalate"] != self._n_escalated:
            self._n_escalated, table = p["escalate"], self.session.escalated()
            self.escalated.layout.display = None if len(table) else "none"
            self.escalated.titles = (f"Escalated: {_count(len(table), 'picture')}, listed without pixels",)
            self.escalated.children[0].value = table.to_html(index=False, border=0, escape=True)


def open(
    run_dir: Path, *, data_dir: Path | None = None, journal: Path | None = None, wish: float = 5.0, **options: Any
) -> ReviewGrid:
    """The grid on the queue that notebook 03 left in a run; it fits nothing again, so it is there in a second.

    Args:
        run_dir: as in `open_session`.
        data_dir: that which `run.json` names by default; the same of `journal`.
        wish: points more or less at which an audit is exact enough, as the grid says in mode "audit".
        options: of `open_session`, such as `mode` and `reviewer`, and those of `ReviewGrid` that are in `LOOKS`.

    A ValueError where data or journal are not those of the run, or `run.json` names none and nobody else does.
    """
    about = runs.check_data(run_dir, data_dir, journal)
    if not (data_dir := data_dir or about.get("data_dir")):
        raise ValueError(f"{run_dir} does not name its data. Expected data_dir=… Received none.")
    data_dir = Path(data_dir).expanduser()
    journal = Path(journal or about.get("journal") or runs.journal_path(data_dir)).expanduser()
    looks = {name: options.pop(name) for name in LOOKS if name in options}
    session = open_session(run_dir, journal, **options)
    frozen = {split: load_audit(run_dir, split) for split in SPLITS if session.mode == "audit"}
    says = partial(audit_width, frozen, session.journal, class_names=session.class_names, wish=wish) if frozen else str
    return ReviewGrid(session, data_dir, says=says, **looks)


def _button(text: str, run: Callable[[], None]) -> ipywidgets.Button:
    button = ipywidgets.Button(description=text, layout={"width": "auto"})
    button.on_click(lambda _: run())
    return button


def _toggle(text: str, on: bool = False, tooltip: str = "") -> ipywidgets.ToggleButton:
    return ipywidgets.ToggleButton(on, description=text, layout={"width": "auto"}, tooltip=tooltip)


def _sentence(error: Exception) -> str:
    """What went wrong, without the number that an error of the operating system has before its words."""
    if isinstance(error, OSError):
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror or str(error)
    return str(error.args[0] if error.args else error)


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'s' * (n != 1)}"


class InOrder:
    """Hands messages on one at a time, each after those that its `sender` numbered before it; `seq` counts from 1."""

    def __init__(self, handle: Callable[[Message], None]) -> None:
        self.handle = handle
        self._lock = threading.RLock()
        self._next: dict[Any, int] = defaultdict(lambda: 1)
        self._held: dict[Any, dict[int, tuple[float, Message]]] = defaultdict(dict)

    def take(self, message: Message) -> None:
        """Hand on `message`, or hold it until those before it have come."""
        sender, number = message.get("sender"), message["seq"]
        with self._lock:
            held = self._held[sender]
            if number >= self._next[sender]:
                held[number] = (time.monotonic(), message)
            if held and time.monotonic() - min(since for since, _ in held.values()) > HOLD_SECONDS:
                self._next[sender] = min(held)
            while (number := self._next[sender]) in held:
                self._next[sender] += 1
                self.handle(held.pop(number)[1])
