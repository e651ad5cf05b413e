import os
import sys
import threading
import time

import pytest

from workflows.dos.errors import DosError
from workflows.dos.limited import one_thread_environment, run_limited


def command(code):
    return [sys.executable, "-c", code]


def test_exit_status_and_output(tmp_path):
    log = tmp_path / "log"
    status = run_limited(command("print('hello'); raise SystemExit(3)"), 30, log, os.environ)
    assert status == 3
    assert log.read_text() == "hello\n"


@pytest.mark.slow
def test_limit_kills_the_whole_group_in_any_thread(tmp_path):
    grandchild = f"import subprocess,sys; subprocess.run([sys.executable,'-c',{SLEEP!r}])"
    outcome = []

    def run():
        try:
            run_limited(command(grandchild), 10, tmp_path / "log", os.environ)
        except DosError as error:
            outcome.append(str(error))

    started = time.monotonic()
    thread = threading.Thread(target=run)  # no alarm signal would work here
    thread.start()
    thread.join(60)
    assert outcome == [
        "wall-time limit of 10 s reached; raise it (--wall-time) or take a cheaper preset"
    ]
    assert time.monotonic() - started < 60
    log = (tmp_path / "log").read_text()
    assert "tick" in log
    time.sleep(0.5)
    assert (tmp_path / "log").read_text() == log  # the grandchild no longer writes


SLEEP = "import time\nwhile True: print('tick', flush=True); time.sleep(0.05)"


def test_one_thread_for_every_library():
    environment = one_thread_environment({"OMP_NUM_THREADS": "8", "HOME": "/x"})
    assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == "1"
    assert environment["HOME"] == "/x"
