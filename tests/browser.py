"""Chromium for the tests that look at pages, and where what they saw is kept."""

import os
import shutil
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
AT_HAND = bool(CHROMIUM) and find_spec("playwright") is not None
NEEDS_BROWSER = [
    pytest.mark.browser,
    pytest.mark.skipif(not AT_HAND, reason="no Chromium on this machine (name one with CHROMIUM=…), or no playwright"),
]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def chromium():
    """Open a browser, and close it at the end."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


def listen(page, noise: tuple[str, ...] = ()) -> list[str]:
    """Collect what goes wrong on a page from now on: errors of its console and scripts, and those of its kernels.

    An exception in a widget's callback is shown nowhere on the page; it is a message of the kernel's.
    """
    wrong = []

    def note(said: str) -> None:
        if not any(words in said for words in noise):
            wrong.append(said)

    def read(frame: str | bytes) -> None:
        text = frame if isinstance(frame, str) else frame.decode(errors="replace")
        if '"ename"' in text:
            note(text[text.rindex('"ename"') :])

    page.on("console", lambda said: note(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: note(str(error)))
    page.on("websocket", lambda socket: socket.on("framereceived", read))
    return wrong


def folder_of_shots(tmp_path_factory, name: str) -> Path:
    """Give the folder of a test file's screenshots: in the one that SHOTS names, else among pytest's own."""
    named = os.environ.get("SHOTS")
    folder = Path(named, name) if named else tmp_path_factory.mktemp(name)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
