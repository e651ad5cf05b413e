"""The dashboard without a browser: what is asked of it, and whom it answers."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from werkzeug.serving import BaseWSGIServer

from db.errors import StoreError
from db.open import open_store
from db.store import ScreeningStore
from screening.cli import main
from screening.dashboard.addresses import page_at
from screening.dashboard.app import make_app
from screening.dashboard.candidates_table import asked_query, filters_of, rows_of
from screening.dashboard.material_page import MaterialPage
from screening.dashboard.page import Page, path_of
from screening.dashboard.run_page import RunPage
from screening.dashboard.server import served
from screening.errors import ScreeningError
from tests.screening.dashboard.dashboard_examples import BEST, HOSTILE, RUN, document, fill


@pytest.fixture
def reader(filled: Path) -> Iterator[ScreeningStore]:
    with open_store(filled, read_only=True) as store:
        yield store


@pytest.fixture
def client(reader: ScreeningStore) -> Any:
    return make_app(reader).server.test_client()


def look(client: Any, path: str) -> Any:
    """What the browser asks when it opens a path."""
    asked = {
        "output": "shown.data",
        "outputs": {"id": "shown", "property": "data"},
        "inputs": [
            {"id": "address", "property": "pathname", "value": path},
            {"id": "pulse", "property": "n_intervals", "value": 0},
        ],
        "state": [
            {"id": "address", "property": "search", "value": ""},
            {"id": "shown", "property": "data", "value": None},
        ],
        "changedPropIds": ["address.pathname"],
    }
    return client.post("/_dash-update-component", json=asked)


# addresses and filters


@pytest.mark.parametrize("name", [HOSTILE, "a b", "100%", "ключ", "#", "a?b=c", "./a"])
def test_any_name_has_an_address(name: str) -> None:
    assert page_at(path_of(name)) == RunPage(name)
    assert page_at(path_of("run", name)) == MaterialPage("run", name)
    assert page_at(path_of(name, name) + "/more") is None


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"state": "x"}, "state 'x': use one of pending; screened; rejected; failed"),
        ({"positive": "1"}, "positive '1': use one of yes; no"),
        ({"domain": "yes,no"}, "domain 'yes,no': use one of yes; yes,near; near; no"),
        ({"probability": "2"}, "probability '2': use a number from 0 to 1"),
        ({"probability": "nan"}, "probability 'nan': use a number from 0 to 1"),
        ({"elements": "Xx"}, "Xx"),
        ({"without": "<b>"}, "<b>"),
    ],
)
def test_a_filter_that_makes_no_sense_is_named(filters: dict[str, str], message: str) -> None:
    with pytest.raises(ScreeningError) as error:
        asked_query(RUN, filters)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_filters_mean_what_they_say(reader: ScreeningStore) -> None:
    filters = filters_of("?state=screened&domain=yes%2Cnear&without=Si,Cu&probability=0.25&x=1")
    shown, total = rows_of(reader, RUN, filters, {"startRow": 0, "endRow": 1000})
    expected = [
        candidate
        for candidate in reader.candidates(RUN)
        if candidate.in_domain in ("yes", "near")
        and not {"Si", "Cu"} & set(candidate.elements)
        and candidate.probability >= 0.25
    ]
    assert total == len(expected) == len(shown) > 50
    assert {row["material_id"] for row in shown} == {c.material_id for c in expected}


def test_rows_are_a_page_of_the_order(reader: ScreeningStore) -> None:
    order = [{"colId": "score", "sort": "desc"}]
    request = {"startRow": 100, "endRow": 200, "sortModel": order}
    rows, total = rows_of(reader, RUN, {}, request)
    assert (len(rows), total) == (100, 301)
    best = list(reader.candidates(RUN, sort_by="score", descending=True))
    assert [row["material_id"] for row in rows] == [c.material_id for c in best[100:200]]
    assert rows[0]["score"] == f"{best[100].score:.3f}"
    assert rows[0]["href"] == path_of(RUN, best[100].material_id)
    # what a page that was made by hand might ask
    odd = {"startRow": -5, "endRow": 10**9, "sortModel": [{"colId": "'; DROP", "sort": "x"}]}
    assert len(rows_of(reader, RUN, {}, odd)[0]) == 301


# runs of all sorts


@pytest.mark.parametrize("kind", ["empty", "one", "failed", "foreign", "no positive"])
def test_odd_runs_have_pages(kind: str, filled: Path) -> None:
    from db.documents import CandidateDoc, Run

    documents = {
        "empty": [],
        "one": [CandidateDoc(run_id="odd", material_id="m")],
        "failed": [CandidateDoc(run_id="odd", material_id="m", state="failed", reason="no atoms")],
        "foreign": [document(1, gap=None, features={"a": {"b": 1.5}}, criterion="theirs")],
        "no positive": [document(3), document(5, energy_above_hull=None)],
    }[kind]
    parameters: dict[str, Any] = {"checkpoint": "gone"}
    if kind == "foreign":
        parameters["criterion"] = {"name": "theirs", "class": "gone:Gone"}
    with open_store(filled) as store:
        store.put_run(Run(run_id="odd", parameters=parameters))
        store.upsert_candidates(d.model_copy(update={"run_id": "odd"}) for d in documents)
        pages: list[Page] = [RunPage("odd")]
        if kind != "foreign":
            pages += [MaterialPage("odd", document.material_id) for document in documents]
        for page in pages:
            assert page.state(store)
            assert page.layout(store, {})
            assert page.parts(store)
            page.slow_parts(store)
        if kind == "foreign":  # as `screen show`
            with pytest.raises(ScreeningError, match="theirs"):
                MaterialPage("odd", "mp-1").parts(store)


# whom it answers


def test_only_this_machine_s_names_are_answered(client: Any) -> None:
    for host in ("127.0.0.1:8050", "localhost:8050"):
        assert client.get("/", headers={"Host": host}).status_code == 200
    for host in ("example.org", "127.0.0.1.example.org", "evil.localhost"):
        assert client.get("/", headers={"Host": host}).status_code == 400
        asked = client.post("/_dash-update-component", json={}, headers={"Host": host})
        assert asked.status_code == 400


def test_the_browser_is_told_to_ask_nobody_else(client: Any) -> None:
    answer = client.get("/")
    assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
    assert "http" not in answer.headers["Content-Security-Policy"]
    assert "//" not in answer.text.replace("<!--", "").replace("-->", "").replace("://", "")


def test_a_page_is_built_with_names_as_text(client: Any) -> None:
    answer = look(client, path_of(RUN, HOSTILE))
    assert answer.status_code == 200
    assert "</script>" in json.dumps(answer.json)  # text of a component, which React escapes
    assert "dangerously_allow_html" not in answer.text


def test_a_damaged_candidate_leaves_the_others(filled: Path) -> None:
    import sqlite3

    with sqlite3.connect(filled) as connection:
        connection.execute("UPDATE candidates SET gap = '{' WHERE material_id = ?", (BEST,))
    with open_store(filled, read_only=True) as store:
        shown, _ = rows_of(store, RUN, {}, {"startRow": 0, "endRow": 400})
        assert len(shown) == 300
        with pytest.raises(ScreeningError, match=r"mp-100 is not in run run-1"):
            MaterialPage(RUN, BEST).state(store)
        assert RunPage(RUN).slow_parts(store)


@pytest.mark.mongo
def test_no_password_is_on_a_page(fresh_database: str) -> None:
    with open_store(fresh_database) as store:
        fill(store, 3)
    secret = fresh_database.replace("://", "://ann:hunter2@")
    with open_store(fresh_database, read_only=True) as store:
        masked = type(store)(fresh_database, read_only=True)
        masked._uri = secret
        client = make_app(masked).server.test_client()
        seen = [client.get("/").text, client.get("/_dash-layout").text]
        seen += [look(client, path).text for path in ("/", path_of(RUN), path_of(RUN, BEST))]
        masked.close()
    assert all("hunter2" not in text and "ann" not in text.split() for text in seen)
    assert "127.0.0.1" in seen[1]


def test_the_store_of_the_dashboard_cannot_be_written(reader: ScreeningStore) -> None:
    with pytest.raises(StoreError, match="open for reading only"):
        reader.upsert_candidates([document(1)])


# the server, and the command


@pytest.mark.slow
def test_a_port_that_is_taken_is_named(reader: ScreeningStore) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(ScreeningError, match=f"127.0.0.1:{port}: .*; name another --port"),
            served(reader, port=port),
        ):
            pass
    with (
        pytest.raises(ScreeningError, match="check --host"),
        served(reader, "no.such.host.invalid", 0),
    ):
        pass


def fails(monkeypatch: Any, capsys: Any, *arguments: object) -> str:
    """The line in which `screen dashboard` ends."""
    monkeypatch.setattr(sys, "argv", ["screen", "dashboard", *map(str, arguments)])
    monkeypatch.setenv("SCREEN_DB", "")
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    return str(line)


def test_what_cannot_be_shown_ends_in_a_line(tmp_path: Path, filled: Path, monkeypatch, capsys):
    def told(*arguments: object) -> str:
        return fails(monkeypatch, capsys, *arguments)

    assert "no such file" in told("--db", tmp_path / "none.sqlite")
    (tmp_path / "text.sqlite").write_text("not a database, but text " * 99)
    assert "is not a database" in told("--db", tmp_path / "text.sqlite")
    assert "no login" in told("--db", filled, "--host", "0.0.0.0")
    assert "unknown scheme" in told("--db", "postgres://ann:hunter2@host/x")
    monkeypatch.setitem(sys.modules, "dash", None)
    for name in [name for name in sys.modules if name.startswith("screening.dashboard")]:
        monkeypatch.delitem(sys.modules, name)
    assert "pip install 'edos-screening[dashboard]'" in told("--db", filled)


@pytest.mark.slow
def test_the_command_serves_until_ctrl_c(filled: Path) -> None:
    command = [sys.executable, "-m", "screening.cli", "dashboard", "--db", filled, "--port", "0"]
    process = subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    line = process.stdout.readline()
    address = line.split(" at ")[1].split()[0]
    with urllib.request.urlopen(address) as answer:
        assert b"react-entry-point" in answer.read()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out, err) == (0, "", "")


def test_another_machine_is_warned_of(filled: Path, monkeypatch, capsys) -> None:
    def interrupted(_: BaseWSGIServer) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(BaseWSGIServer, "serve_forever", interrupted)
    command = ["screen", "dashboard", "--db", str(filled), "--host", "0.0.0.0", "--port", "0"]
    monkeypatch.setattr(sys, "argv", [*command, "--allow-others"])
    monkeypatch.setenv("SCREEN_DB", "")
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    assert end.value.code == 0
    assert re.fullmatch(
        r"Warning: whoever reaches 0\.0\.0\.0:\d+ can read all of .*: there is no login\.\n", err
    )
    assert "screening.sqlite at http://0.0.0.0:" in out
