"""Pages of an OPTIMADE answer on disk, as they came."""

from __future__ import annotations

import gzip
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from models.writing import write_whole
from screening.errors import ScreeningError
from screening.sources.optimade.server import Page


@dataclass(frozen=True)
class Facts:
    """Provenance of an answer.

    Parameters
    ----------
    base_url, filter : str
        What was asked.
    retrieved : str
        When the first page came: ISO 8601, UTC.
    database : str
        Its name.
    attribution : str
    returned, available : int or None
        Structures that meet the filter, and all, if the server says so.
    ignored : tuple of str
        Fields that are not used.
    notes : tuple of str
        What a user is to be told.
    """

    base_url: str
    filter: str
    retrieved: str
    database: str
    attribution: str
    returned: int | None
    available: int | None
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class KeptPages:
    """The pages of one answer that have come so far.

    Parameters
    ----------
    folder : Path
        Of this answer.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def facts(self) -> Facts | None:
        """Provenance of what is kept, None if nothing usable is."""
        try:
            known = json.loads((self._folder / "facts.json").read_text(encoding="utf-8"))
            lists = {name: tuple(known[name]) for name in ("ignored", "notes")}
            facts = Facts(**known | lists)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return facts if self.read(1) else None

    def begin(self, facts: Facts, first: Page) -> None:
        """Keep the first page, and forget those of an earlier answer.

        Parameters
        ----------
        facts : Facts
        first : Page
        """
        shutil.rmtree(self._folder, ignore_errors=True)
        self.write(1, first)
        self._write("facts.json", json.dumps(asdict(facts)).encode())

    def read(self, number: int) -> Page | None:
        """A page, None if it is not there.

        Parameters
        ----------
        number : int
            From 1.
        """
        try:
            return Page(**json.loads(gzip.decompress(self._path(number).read_bytes())))
        except (OSError, EOFError, ValueError, TypeError):
            return None

    def write(self, number: int, page: Page) -> None:
        """Keep a page.

        Parameters
        ----------
        number : int
            From 1.
        page : Page
        """
        content = gzip.compress(json.dumps(asdict(page)).encode(), 1)
        self._write(self._path(number).name, content)

    def _path(self, number: int) -> Path:
        return self._folder / f"page-{number:06d}.json.gz"

    def _write(self, name: str, content: bytes) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(self._folder / name, content)
        except OSError as error:
            raise ScreeningError(f"cannot write {self._folder}: {error.strerror}") from None
