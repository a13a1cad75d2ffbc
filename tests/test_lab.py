"""JupyterLab opens a notebook of this project in a browser and runs it to its end."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine (name one with CHROMIUM=…)"),
]
sync_api = pytest.importorskip("playwright.sync_api")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NOTEBOOK = ROOT / "nbs" / "0_ground" / "00_core.ipynb"
BAD = "[data-mime-type='application/vnd.jupyter.error'], [data-mime-type='application/vnd.jupyter.stderr']"
# the last cell in view has an execution number (saved outputs alone would not prove a run), or something went wrong
DONE = r"""bad => document.querySelector(bad) ||
    (e => e.length && /\[\d+\]/.test(e.at(-1).innerText))(
        [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')])"""


def copy_without_outputs(notebook: Path, folder: Path) -> None:
    import nbformat

    copy = nbformat.read(notebook, 4)
    for cell in copy.cells:
        if cell.cell_type == "code":
            cell.outputs = []
            cell.execution_count = None
    nbformat.write(copy, folder / notebook.name)


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def lab_command(folder: Path, port: int) -> list[str]:
    server = [
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--ServerApp.port_retries=0",
        "--IdentityProvider.token=smoke",
        f"--ServerApp.root_dir={folder}",
    ]
    no_news = ["--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    return [sys.executable, "-m", "jupyterlab", *server, *no_news]


def lab_environment(folder: Path) -> dict[str, str]:
    """This process's environment, but with settings and home in `folder`, and the notebook's own backend of plots."""
    own = {
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
    }
    environment = os.environ | own
    environment.pop("MPLBACKEND", None)
    return environment


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(f"{url}/api/status?token=smoke", timeout=1)
    except OSError:
        return False
    return True


def wait_for(url: str, log: Path) -> None:
    """Wait until the server answers; fail with its log after a minute."""
    for _ in range(120):
        if answers(url):
            return
        time.sleep(0.5)
    pytest.fail(log.read_text())


@pytest.fixture
def lab(tmp_path):
    """A server of its own: its own port, home and settings, on a copy of the notebook, with the outputs removed."""
    copy_without_outputs(NOTEBOOK, tmp_path)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    path = tmp_path / "lab.log"
    command, environment = lab_command(tmp_path, port), lab_environment(tmp_path)
    with open(path, "wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            wait_for(url, path)
            yield url
        finally:
            server.terminate()
            server.wait(20)


def test_notebook_runs_in_lab(lab, tmp_path):
    """The last cell is executed, and no cell shows an error or writes to stderr."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 3000})
        page.goto(f"{lab}/lab/tree/{NOTEBOOK.name}?token=smoke")
        page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=60_000)  # before this, Run asks for a kernel
        page.click("text=Run >> nth=0")
        page.click("text=Run All Cells >> nth=0")
        page.wait_for_function(DONE, arg=BAD, timeout=120_000)
        page.screenshot(path=os.environ.get("LAB_SHOT", str(tmp_path / "lab.png")))
        wrong = page.locator(BAD)
        assert wrong.count() == 0, wrong.first.inner_text()
        browser.close()
