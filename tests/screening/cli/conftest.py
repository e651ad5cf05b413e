"""The command line as a user calls it, without the cost of a new process."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from screening.cli import main


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def screen(tmp_path, monkeypatch, capsys) -> Callable[..., Outcome]:
    """Call `screen` in an empty folder, without a key; no traceback is ever allowed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MP_API_KEY", raising=False)
    monkeypatch.setenv("SCREEN_DB", "")  # so that what a command sets is forgotten afterwards
    monkeypatch.delenv("SCREEN_DB")
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["screen", *map(str, arguments)])
        code = 0
        hearing = signal.getsignal(signal.SIGINT)
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        finally:  # a command that was interrupted ends deaf to another Ctrl-C; this process goes on
            signal.signal(signal.SIGINT, hearing)
        out, err = capsys.readouterr()
        assert "Traceback" not in err + out
        return Outcome(code, out, err)

    return call
