"""Drive a notebook in a real JupyterLab with headless Chromium: for the browser tests and the README's pictures.

with running_jupyter(folder) as address, open_page() as page:
    notebook = Notebook(page, address, "review.ipynb")
    notebook.run_all()
    notebook.screenshot(".nsfw-panel", Path("review.png"))

As a program it takes the picture of one element after some keys:

python tests/browser.py notebooks/03_cleanse_labels.ipynb .nsfw-panel _art/review.png --keys k 2 ArrowDown " "
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
from playwright.sync_api import Page, sync_playwright

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
READY = """() => {
  const panel = window.jupyterapp?.shell?.currentWidget;
  const context = panel?.sessionContext;
  const kernel = context?.session?.kernel;
  return context?.isReady && kernel?.status === 'idle' && kernel?.connectionStatus === 'connected';
}"""
EXECUTE = """async (code) => {
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  const future = kernel.requestExecute({ code, silent: false, store_history: false });
  let out = '';
  future.onIOPub = (m) => {
    if (m.header.msg_type === 'stream') out += m.content.text;
    if (m.header.msg_type === 'error') out += m.content.traceback.join('\\n');
  };
  await future.done;
  return out;
}"""


def find_chromium() -> str | None:
    """The browser's program: `CHROMIUM` from the environment, else what is on the path."""
    names = [os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome"]
    return next((found for name in names if name and (found := shutil.which(name))), None)


@contextlib.contextmanager
def running_jupyter(folder: Path, *, command: tuple[str, ...] = (), seconds: float = 60) -> Iterator[str]:
    """Start JupyterLab, or `command`, in `folder` with private settings; yields its address, ends it afterwards."""
    private = Path(tempfile.mkdtemp(prefix="jupyter-"))
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    for name in ("CONFIG", "DATA", "RUNTIME"):
        (private / name.lower()).mkdir(parents=True, exist_ok=True)
        env[f"JUPYTER_{name}_DIR"] = str(private / name.lower())
    no_news = private / "config/lab/user-settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    no_news.parent.mkdir(parents=True, exist_ok=True)
    no_news.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    command = command or (
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1",
        "--ServerApp.port=0", "--IdentityProvider.token=", "--LabApp.expose_app_in_browser=True",
    )  # fmt: skip
    with (private / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield _address(server, private, seconds)
        finally:
            server.terminate()
            server.wait(20)
            shutil.rmtree(private, ignore_errors=True)


def _address(server: subprocess.Popen, private: Path, seconds: float) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        for file in (private / "runtime").glob("jpserver-*.json"):
            with contextlib.suppress(json.JSONDecodeError):
                return json.loads(file.read_text())["url"].rstrip("/")
        if voila := re.search(r"is running at:\n(http\S+)/", (private / "log").read_text()):  # it leaves no such file
            return voila[1]
        time.sleep(0.1)
    raise RuntimeError("The server did not start:\n" + (private / "log").read_text()[-2000:])


@contextlib.contextmanager
def open_page(*, width: int = 1360, height: int = 1000, scale: float = 1.0) -> Iterator[Page]:
    """A page of a fresh headless browser."""
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        try:
            yield browser.new_page(viewport={"width": width, "height": height}, device_scale_factor=scale)
        finally:
            browser.close()


def write_notebook(path: Path, cells: list[str]) -> Path:
    """A notebook of these code cells."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)
    return path


class Notebook:
    """One notebook open in JupyterLab."""

    def __init__(self, page: Page, address: str, name: str) -> None:
        self.page = page
        page.goto(f"{address}/lab/tree/{name}?reset")
        self.wait_ready()

    def wait_ready(self, *, seconds: float = 60) -> None:
        """Until the kernel is connected and idle; the toolbar's own sign comes too early."""
        self.page.wait_for_function(READY, timeout=1000 * seconds)

    def command(self, name: str) -> None:
        """Start a JupyterLab command."""
        self.page.evaluate(f"() => {{ jupyterapp.commands.execute('{name}') }}")

    def run_all(self, *, seconds: float = 60) -> None:
        """Run all cells and wait for the kernel."""
        self.command("notebook:run-all-cells")
        self.page.wait_for_timeout(300)
        self.wait_ready(seconds=seconds)

    def execute(self, code: str) -> str:
        """Run code in the kernel beside the notebook; what it printed."""
        return re.sub(r"\x1b\[[0-9;]*m", "", self.page.evaluate(EXECUTE, code))

    def restart_kernel(self) -> None:
        """Kill the kernel and start it anew."""
        self.page.evaluate("() => jupyterapp.shell.currentWidget.sessionContext.restartKernel()")
        self.wait_ready()

    def screenshot(self, selector: str, path: Path) -> Path:
        """Save a picture of one element."""
        self.page.locator(selector).first.screenshot(path=path)
        return path


def photograph(
    notebook: Path, selector: str, out: Path, *, keys: tuple[str, ...] = (), seconds: float = 600, scale: float = 2.0
) -> Path:
    """Run a notebook, press keys on the element (its grid, if it has one), save its picture. Nothing is saved else."""
    with running_jupyter(notebook.parent.absolute()) as address, open_page(height=1240, scale=scale) as page:
        opened = Notebook(page, address, notebook.name)
        opened.command("application:toggle-left-area")
        opened.run_all(seconds=seconds)
        page.locator(selector).first.wait_for(timeout=30_000)
        if keys:
            page.locator(f"{selector} .nsfw-cell").first.wait_for(timeout=30_000)
            page.locator(f"{selector} .nsfw-grid").first.focus()
        for key in keys:
            page.keyboard.press(key)
            page.wait_for_timeout(400)
        return opened.screenshot(selector, out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("selector")
    parser.add_argument("out", type=Path)
    parser.add_argument("--keys", nargs="*", default=[], help="pressed in the grid before, e.g. k 2 ArrowDown")
    arguments = parser.parse_args()
    photograph(arguments.notebook, arguments.selector, arguments.out, keys=tuple(arguments.keys))
