"""The documentation site is built without a warning, and reads well in a browser."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.browser import DESKTOP, PHONE, WatchedPage

ROOT = Path(__file__).parents[1]
HOST = "127.0.0.1"
# Longer than the building, so that this says what was wrong with it.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

PAGES = (
    "docs/index",
    "docs/science",
    "docs/commands",
    "docs/api/predict",
    "models/zoo/README",
    "screening/examples/predict",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the site, built as `make docs` builds it."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    (line,) = re.findall(r"^\t\$\(BIN\)/sphinx-build (.*)", makefile, re.MULTILINE)
    folder = tmp_path_factory.mktemp("site")
    arguments = line.replace("docs/_build", str(folder)).split()
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Where a server on this machine has the site."""
    handler = partial(_Quiet, directory=str(site))
    with ThreadingHTTPServer((HOST, 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{HOST}:{server.server_port}"
        server.shutdown()


def check_quiet(watched: WatchedPage) -> None:
    # The theme says which of its modes, dark or light, it has chosen.
    watched.messages = [text for text in watched.messages if not text.startswith("[PST]")]
    watched.check_quiet(HOST)


def test_the_commands_are_those_of_the_program(site: Path) -> None:
    from screening.cli.app import EXAMPLES

    page = re.sub(r"<[^>]+>", "", (site / "docs" / "commands.html").read_text(encoding="utf-8"))
    for examples in EXAMPLES.values():
        for example in examples:
            assert f"screen {example}" in page


def test_formulas_are_drawn_without_scripts(site: Path) -> None:
    source = (ROOT / "docs" / "science.md").read_text(encoding="utf-8")
    page = (site / "docs" / "science.html").read_text(encoding="utf-8")
    formulas = len(re.findall(r"^\$\$\n", source, re.MULTILINE)) // 2
    assert page.count('<div class="formula"') == formulas > 20
    assert not re.search(r"<script[^>]*(http|mathjax)", page, re.IGNORECASE)


@pytest.mark.browser
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_quiet_and_accessible(address: str, open_page: Any, name: str) -> None:
    for size in (DESKTOP, PHONE):
        watched = open_page(f"{address}/{name}.html", size)
        watched.page.wait_for_load_state("networkidle")
        check_quiet(watched)
        watched.check_fits()
        watched.check_accessible()
        watched.screenshot(f"site-{name.replace('/', '-')}-{size[0]}")


@pytest.mark.browser
def test_a_page_opens_without_a_server(site: Path, open_page: Any) -> None:
    watched = open_page((site / "index.html").as_uri())
    watched.page.wait_for_url("**/docs/index.html")
    check_quiet(watched)


@pytest.mark.browser
def test_the_search_finds_a_page(address: str, open_page: Any) -> None:
    watched = open_page(f"{address}/search.html?q=Slater")
    watched.page.wait_for_selector("#search-results a[href*=science]")
    watched.page.wait_for_load_state("networkidle")
    check_quiet(watched)
