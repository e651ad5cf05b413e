"""How the embedded store keeps values, and which it refuses."""

from __future__ import annotations

import signal

import numpy as np
import pytest

from db.embedded_codecs import JSON
from db.errors import StoreError
from tests.db.db_examples import candidate, verdict


def test_a_document_that_mongodb_could_not_keep_is_refused(embedded, monkeypatch) -> None:
    monkeypatch.setattr("db.embedded_codecs.MAX_DOCUMENT", 1000)
    with pytest.raises(StoreError, match=r"run-1, mp-1: structure has \d+ bytes, 1000 are"):
        embedded.upsert_candidates([candidate(structure={"sites": ["x" * 1000]})])
    assert embedded.candidate_counts("run-1") == {}


def test_ctrl_c_while_a_document_is_encoded_stays_a_ctrl_c() -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    encode = JSON.encode
    assert encode is not None
    document = verdict().gap
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for moment in np.linspace(0.001, 0.002, 300):
            with pytest.raises(KeyboardInterrupt):  # noqa: PT012
                signal.setitimer(signal.ITIMER_REAL, moment)
                while True:
                    encode([document] * 50)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
