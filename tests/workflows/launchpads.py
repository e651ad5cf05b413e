"""A launchpad of a test's own on the MongoDB server, and workers in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pymongo
import pytest
import yaml
from pymongo.uri_parser import parse_uri

ROOT = Path(__file__).parents[2]
SECRET = "correct-horse"  # in the URIs, which may be nowhere in a database
AS_RLAUNCH = "from fireworks.scripts.rlaunch_run import rlaunch\nrlaunch()"
PATIENCE = 480.0  # s, with processes that import much on a busy machine
# Where waits follow one another, the first that fails is to say so, not pytest's own limit.
several_waits = pytest.mark.timeout(2.5 * PATIENCE)


@contextmanager
def new_database() -> Iterator[str]:
    """URI of an empty database on the test server; without a server the test is skipped."""
    server = os.environ.get("SCREEN_TEST_MONGO_URI")
    if not server:
        pytest.skip("SCREEN_TEST_MONGO_URI is not set")
    name = f"screen_test_{uuid.uuid4().hex[:12]}"
    scheme, _, rest = server.partition("://")
    hosts, _, options = rest.partition("?")
    yield f"{scheme}://{hosts.partition('/')[0]}/{name}?{options}"
    with pymongo.MongoClient(server) as client:
        client.drop_database(name)


@dataclass(frozen=True)
class Site:
    """A folder with ``launchpad.yaml`` and ``jobflow.yaml``, and what workers need to know.

    Parameters
    ----------
    folder : Path
    uri : str
        Of the database that FireWorks, the job store and the screening store share.
    db : str
        The screening store, as a user names it.
    workers : list of Popen
        All that were started.
    """

    folder: Path
    uri: str
    db: str
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list, repr=False)

    @property
    def launchpad(self) -> Path:
        return self.folder / "launchpad.yaml"

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "JOBFLOW_CONFIG_FILE": str(self.folder / "jobflow.yaml"),
            "SCREEN_DB": self.db,
            "OMP_NUM_THREADS": "1",
        }

    def call(self, *command: object, typed: str | None = None, **environment: str) -> str:
        """Run a command of FireWorks to its end, with what a user types."""
        done = subprocess.run(
            self._command(command),
            env=self.environment | environment,
            check=False,
            cwd=self.folder,
            capture_output=True,
            text=True,
            input=typed,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start_worker(
        self,
        *options: object,
        categories: Sequence[str] = (),
        ends: bool = True,
        program: str | None = None,
        **environment: str,
    ) -> subprocess.Popen[bytes]:
        """A ``rlaunch rapidfire``, by default until nothing is left to do or to wait for.

        `program` is Python code that does something before it is one.
        """
        if categories:
            file = self.folder / f"{'-'.join(categories)}_fworker.yaml"
            file.write_text(yaml.safe_dump({"name": "w", "category": [*categories], "query": "{}"}))
            options = ("-w", file, *options)
        launches = () if ends else ("--nlaunches", "infinite")
        rlaunch = ("rlaunch",) if program is None else ("python", "-c", program + AS_RLAUNCH)
        options = ("-l", self.launchpad, *options, "rapidfire", "--sleep", 1, *launches)
        with (self.folder / "workers.log").open("ab") as log:
            worker = subprocess.Popen(
                self._command((*rlaunch, *options)),
                env=self.environment | environment,
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )
        self.workers.append(worker)
        return worker

    def work(self) -> None:
        """Work off all that is ready."""
        self.wait_for(self.start_worker())

    def wait_for(self, worker: subprocess.Popen[bytes]) -> None:
        """Until a worker has nothing left to do; one that takes too long is not left behind."""
        try:
            status = worker.wait(PATIENCE)
        finally:
            worker.kill()
        assert status == 0, (self.folder / "workers.log").read_text()[-3000:]

    def stop(self) -> None:
        """Kill the workers that a test that failed left behind: their database is dropped."""
        for worker in self.workers:
            worker.kill()
            worker.wait()

    @staticmethod
    def _command(command: Sequence[object]) -> list[str]:
        program, *arguments = map(str, command)
        return [str(Path(sys.executable).with_name(program)), *arguments]


def make_site(folder: Path, uri: str) -> Site:
    """Write the files, and set up the launchpad with the stock command."""
    parsed = parse_uri(uri)
    host, port = parsed["nodelist"][0]
    fields = yaml.safe_load((ROOT / "launchpad.yaml").read_text())
    fields |= {"host": host, "port": port, "name": parsed["database"]}
    fields["mongoclient_kwargs"] = {"directConnection": True, "appname": SECRET}
    (folder / "launchpad.yaml").write_text(yaml.safe_dump(fields))
    store = {
        "type": "MongoStore",
        "host": host,
        "port": port,
        "database": parsed["database"],
        "collection_name": "outputs",
        "mongoclient_kwargs": {"directConnection": True},
    }
    (folder / "jobflow.yaml").write_text(yaml.safe_dump({"JOB_STORE": {"docs_store": store}}))
    separator = "&" if "?" in uri else "?"
    site = Site(folder, uri, f"{uri}{separator}appname={SECRET}")
    site.call("lpad", "-l", site.launchpad, "reset", typed=parsed["database"])
    return site


def wait_until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.05)
