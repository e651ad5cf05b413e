"""A page in headless Chromium that is watched: nothing it does goes unseen.

Tests ask for the fixture `open_page`, which `tests/conftest.py` has from here.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

FLAGS = (  # a quiet browser that asks nobody for anything, and draws WebGL without a GPU
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-unsafe-swiftshader",
    "--disable-gpu-watchdog",  # without a GPU a drawing may take long
    "--disable-dev-shm-usage",  # of which a container may have little
)
LAUNCH, PATIENCE = 180_000, 120_000  # ms
DESKTOP, PHONE = (1280, 900), (360, 740)  # pixels


@dataclass
class WatchedPage:
    """A page of Playwright, with all that it asked for and said.

    `page` is Playwright's own, for everything else.
    """

    page: Any
    requests: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    def hear(self, message: Any) -> None:
        """Keep what the console says, but for how fast the driver of WebGL reads pixels."""
        if "GPU stall due to ReadPixels" not in message.text:
            self.messages.append(message.text)

    def check_quiet(self, *hosts: str) -> None:
        """Nothing was written to the console, and no request went to another host than these."""
        assert self.messages == []
        elsewhere = [
            url
            for url in self.requests
            if urlsplit(url).scheme not in ("file", "data", "blob")
            and urlsplit(url).hostname not in hosts
        ]
        assert elsewhere == []

    def check_accessible(self) -> None:
        """Axe finds nothing serious or critical."""
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(self.page).response["violations"]
        assert [
            (violation["id"], [node["html"] for node in violation["nodes"]])
            for violation in found
            if violation["impact"] in ("serious", "critical")
        ] == []

    def check_fits(self) -> None:
        """The page is not wider than its window, so that a phone need not scroll sideways."""
        width, window = self.page.evaluate(
            "[document.documentElement.scrollWidth, window.innerWidth]"
        )
        assert width <= window

    def resize(self, size: tuple[int, int]) -> None:
        """Give its window another width and height, in pixels."""
        width, height = size
        self.page.set_viewport_size({"width": width, "height": height})

    def screenshot(self, name: str, *, full: bool = False) -> None:
        """Keep a picture of the page in the folder SCREEN_TEST_SCREENSHOTS, if there is one."""
        if folder := os.environ.get("SCREEN_TEST_SCREENSHOTS"):
            self.page.screenshot(path=Path(folder) / f"{name}.png", full_page=full)


def find_chromium() -> str:
    """Path of the browser; skips the test without one."""
    path = os.environ.get("SCREEN_TEST_CHROMIUM") or shutil.which("chromium")
    if not path:
        pytest.skip("no Chromium on this machine (SCREEN_TEST_CHROMIUM)")
    return path


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Headless Chromium, a browser of Playwright."""
    path = find_chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS), timeout=LAUNCH)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Callable[..., WatchedPage]]:
    """Open an address (`file://` or of a server on loopback) in a window of some size."""
    contexts = []

    def opened(url: str, size: tuple[int, int] = DESKTOP, **options: Any) -> WatchedPage:
        width, height = size
        context = chromium.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        watched = WatchedPage(context.new_page())
        watched.page.on("request", lambda request: watched.requests.append(request.url))
        watched.page.on("console", watched.hear)
        watched.page.on("pageerror", lambda error: watched.messages.append(str(error)))
        watched.page.goto(url)
        return watched

    yield opened
    for context in contexts:
        context.close()
