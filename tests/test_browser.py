"""The watch that tests of pages stand on sees what it is there for."""

from __future__ import annotations

import pytest

from tests.browser import PHONE

pytestmark = pytest.mark.browser

NOISY = """<!doctype html><html><title>t</title><body style="width: 600px"><img src="x.png">
<script>
  console.log("said"); fetch("http://127.0.0.1:9/").catch(() => 0); undefinedName()
</script>"""


def test_what_a_page_says_and_asks_for_is_seen(tmp_path, open_page):
    file = tmp_path / "noisy.html"
    file.write_text(NOISY)
    watched = open_page(file.as_uri(), PHONE)
    watched.page.wait_for_timeout(300)
    assert "said" in watched.messages
    assert any("undefinedName" in message for message in watched.messages)
    for check in (watched.check_quiet, watched.check_accessible, watched.check_fits):
        with pytest.raises(AssertionError):
            check()


def test_a_page_without_faults_passes(tmp_path, open_page):
    file = tmp_path / "plain.html"
    file.write_text('<!doctype html><html lang="en"><title>t</title><main><h1>A page</h1></main>')
    watched = open_page(file.as_uri())
    watched.check_quiet()
    watched.check_accessible()
    watched.check_fits()


def test_webgl_is_there(tmp_path, open_page):
    file = tmp_path / "plain.html"
    file.write_text("<!doctype html><html><canvas></canvas>")
    page = open_page(file.as_uri()).page
    assert page.evaluate("!!document.querySelector('canvas').getContext('webgl')")
