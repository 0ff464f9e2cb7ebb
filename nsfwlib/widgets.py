"""How does a person see a `ReviewSession` in a notebook? A view: every rule lives in `review`."""

import html
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets
import numpy as np
import pandas as pd
import traitlets

from nsfwlib import dataset, images
from nsfwlib.review import ReviewSession

HERE = Path(__file__).parent
THUMBNAIL, REVEALED = 192, 640  # pixels on the long side
Reply = Callable[[dict[str, Any], list[bytes]], None]


class PictureStore:
    """Decoded small pictures of the pages in view and next, kept in memory only; the next are made in a thread."""

    def __init__(self, data_dir: Path, *, size: int = THUMBNAIL, keep: int = 200) -> None:
        self.data_dir, self.size, self.keep = Path(data_dir), size, keep
        self._small: OrderedDict[str, np.ndarray | images.ImageProblem] = OrderedDict()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")

    def small(self, path: str) -> np.ndarray | images.ImageProblem:
        """The picture, at most `size` pixels on the long side, or why there is none."""
        if path not in self._small:
            try:
                source = dataset.file_path(self.data_dir, path)
                self._small[path] = images.blurred_thumbnail(source, size=self.size, blur=0, grey=False)
            except images.ImageProblem as problem:
                self._small[path] = problem
            while len(self._small) > self.keep:
                self._small.popitem(last=False)
        return self._small[path]

    def blurred(self, path: str, *, blur: float, grey: bool) -> tuple[bytes, str]:
        """JPEG bytes to show before anybody asked to see the picture, or b"" and why there are none."""
        picture = self.small(path)
        if isinstance(picture, images.ImageProblem):
            return b"", picture.reason
        return images.encode_jpeg(images.blurred_thumbnail(picture, size=self.size, blur=blur, grey=grey)), ""

    def sharp(self, path: str) -> bytes:
        """JPEG bytes of the picture as it is, decoded anew and not kept."""
        source = dataset.file_path(self.data_dir, path)
        return images.encode_jpeg(
            images.blurred_thumbnail(source, size=REVEALED, blur=0, grey=False), quality=85
        )

    def prefetch(self, paths: list[str]) -> None:
        """Decode these in the background."""
        self._thread.submit(lambda: [self.small(path) for path in paths])


class PageView(anywidget.AnyWidget):
    """The grid in the browser (`review.js`). Pixels travel in messages: its saved state holds none."""

    _esm = HERE / "review.js"
    _css = HERE / "review.css"
    classes = traitlets.List(traitlets.Unicode()).tag(sync=True)
    advance = traitlets.Bool(True).tag(sync=True)


class ReviewGrid(ipywidgets.VBox):
    """The review grid: pages of blurred pictures, keys and buttons, progress.

    Args:
        session: holds the queue, the decisions and all rules.
        data_dir: where the paths of the queue lie.
        blur: radius of the blur in pixels of the thumbnail; the pixels that reach the browser are blurred.
        grey: whether they are grey.
        advance: whether a decision moves on to the next picture.
    """

    def __init__(
        self,
        session: ReviewSession,
        data_dir: Path,
        *,
        blur: float = 6.0,
        grey: bool = True,
        advance: bool = True,
    ) -> None:
        self.session, self.store = session, PictureStore(data_dir)
        self.page = session.first_open_page()
        self.revealed = 0
        self.view = PageView(classes=session.class_names, advance=advance)
        self.view.on_msg(self._on_message)
        self.blur = ipywidgets.FloatSlider(blur, min=0, max=16, step=0.5, description="Blur")
        self.grey = ipywidgets.Checkbox(grey, description="Grey", indent=False)
        self.counts = ipywidgets.HTML()
        back, forth = ipywidgets.Button(description="‹ Page"), ipywidgets.Button(description="Page ›")
        back.on_click(lambda _: self._go(-1))
        forth.on_click(lambda _: self._go(1))
        for control in (self.blur, self.grey):
            control.observe(lambda _: self._send_page(), "value")
        self._count()
        super().__init__([ipywidgets.HBox([back, forth, self.blur, self.grey]), self.counts, self.view])

    def _on_message(self, _: Any, message: dict[str, Any], __: Any) -> None:
        handler = {
            "open": self._open, "decide": self._decide, "accept": self._accept, "undo": self._undo,
            "redo": self._undo, "reveal": self._reveal, "go": lambda m: self._go(m["step"]),
        }.get(message.get("op", ""))  # fmt: skip
        if handler is None:
            return
        try:
            handler(message)
        except (ValueError, KeyError, OSError) as error:
            self.view.send({"t": "problem", "text": str(error)})
            self._send_state(message)

    def _open(self, _: dict[str, Any]) -> None:
        self._send_page()

    def _decide(self, message: dict[str, Any]) -> None:
        self.session.decide(message["path"], message["decision"], seconds=message.get("seconds"))
        self._send_state(message)

    def _accept(self, message: dict[str, Any]) -> None:
        self.session.accept_page(message["page"], seconds=message.get("seconds"))
        self._send_state(message)
        self._go(1)

    def _undo(self, message: dict[str, Any]) -> None:
        paths = self.session.undo() if message["op"] == "undo" else self.session.redo()
        shown = self.session.page(self.page)["path"].tolist()
        rows = self.session.queue.loc[self.session.queue["path"].isin(paths), "page"]
        if len(rows) and not set(paths) & set(shown):
            self.page = int(rows.iloc[0])
            self._send_page()
        self._send_state(
            message, text=f"{message['op']}: {', '.join(paths[:2])}" if paths else "nothing to undo"
        )

    def _reveal(self, message: dict[str, Any]) -> None:
        self.revealed += 1
        self.view.send({"t": "reveal", "path": message["path"]}, [self.store.sharp(message["path"])])
        self._count()

    def _go(self, step: int) -> None:
        self.page = min(max(self.page + step, 0), max(self.session.n_pages - 1, 0))
        self._send_page()

    def _send_page(self) -> None:
        if not self.session.n_pages:
            self.view.send(
                {"t": "page", "page": 0, "rows": [], "default": "", "title": "Nothing to review."}, []
            )
            return
        rows = self.session.page(self.page)
        shown, buffers = [], []
        for row in rows.to_dict("records"):
            hidden = row["decision"] == "escalate"
            data, note = (b"", "escalated") if hidden else self._blurred(row["path"])
            shown.append(self._row(row, note))
            buffers.append(data)
        first = rows.iloc[0]
        title = f"{first['given']} → {first['suggested']}?  Page {self.page + 1} of {self.session.n_pages}"
        message = {"t": "page", "page": self.page, "rows": shown, "title": title}
        self.view.send({**message, "default": self.session.page_default(self.page)}, buffers)
        if self.page + 1 < self.session.n_pages:
            self.store.prefetch(self.session.page(self.page + 1)["path"].tolist())
        self._count()

    def _blurred(self, path: str) -> tuple[bytes, str]:
        return self.store.blurred(path, blur=self.blur.value, grey=self.grey.value)

    def _row(self, row: dict[str, Any], note: str) -> dict[str, Any]:
        probs = self.session.pred_probs
        return {
            **{name: str(row[name]) for name in ("path", "given", "suggested", "decision")},
            "note": note,
            "odds": None if pd.isna(row["score"]) else float(np.clip((1 + row["score"]) / 2, 0, 1)),
            "probs": None if probs is None else probs.loc[row["path"]].tolist(),
        }

    def _send_state(self, message: dict[str, Any], *, text: str = "") -> None:
        rows = self.session.page(self.page)
        state = dict(zip(rows["path"], rows["decision"], strict=True))
        self.view.send({"t": "state", "seq": message["seq"], "decisions": state, "text": text})
        self._count()

    def _count(self) -> None:
        p = self.session.progress()
        text = (
            f"{p['decided']:,} of {p['rows']:,} decided · {p['errors_found']:,} errors found · "
            f"{self.revealed:,} revealed · {p['seconds'] / 60:.0f} min"
        )
        self.counts.value = html.escape(text)
