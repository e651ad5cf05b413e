"""Connection to the Materials Project: the key, retries, and errors that a user can act on."""

from __future__ import annotations

import json
import os
import re
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from db.store import mask_uri
from screening.errors import ScreeningError
from screening.secrets import keep_secret, keep_uri_secret, without_secrets
from screening.sources.materials_project.documents import usual_id
from screening.sources.retries import patiently

KEY_PAGE = "https://next-gen.materialsproject.org/api"
ATTRIBUTION = (
    "Data from the Materials Project (https://materialsproject.org), CC BY 4.0; cite "
    "A. Jain et al., APL Materials 1, 011002 (2013), doi:10.1063/1.4812323"
)
ATTEMPTS = 6
ATTEMPTS_TO_CONNECT = 3  # someone may be waiting
TIMEOUT = 120  # s without a byte

T = TypeVar("T")


class NoKeyError(ScreeningError):
    """There is no key of the Materials Project."""


def find_api_key(key_file: Path | None = None) -> str:
    """The user's key: from `MP_API_KEY`, then pymatgen's settings, then a file.

    Raises
    ------
    NoKeyError
        If there is none.
    ScreeningError
        If what there is cannot be a key.
    """
    key, where = os.environ.get("MP_API_KEY", ""), "MP_API_KEY"
    if not key:
        from pymatgen.core import SETTINGS

        key, where = str(SETTINGS.get("PMG_MAPI_KEY") or ""), "pymatgen's PMG_MAPI_KEY"
    if not key and key_file is not None:
        try:
            key, where = key_file.read_text(encoding="utf-8").strip(), str(key_file)
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise ScreeningError(f"cannot read the key file {key_file}: {reason}") from None
    key = key.strip()
    if not key:
        raise NoKeyError(
            f"no Materials Project key: get one at {KEY_PAGE} and set MP_API_KEY; "
            "--source prototypes needs none"
        )
    if not re.fullmatch(r"[A-Za-z0-9]{32}", key):
        what = "a key of the legacy API" if len(key) == 16 else "no key of the Materials Project"
        raise ScreeningError(
            f"what is in {where} is {what}, which has 32 letters and digits: see {KEY_PAGE}"
        )
    keep_secret(key)
    return key


def chosen_endpoint(endpoint: str | None) -> str | None:
    """Address of the server: the one given, that of `MP_API_ENDPOINT`, or None for the usual."""
    chosen = endpoint or os.environ.get("MP_API_ENDPOINT") or None
    keep_uri_secret(chosen or "")
    return chosen


class MaterialsProjectClient:
    """The official client with retries, and with errors in one line.

    Rate limits are respected: the official client waits as long as a 429 answer asks, and what
    still fails then, or breaks off, is tried again after a pause that doubles each time.

    Parameters
    ----------
    api_key : str
    endpoint : str, optional
        Of another server with the same interface.
    sleep : callable, optional
        Waits for a number of seconds.

    Raises
    ------
    ScreeningError
        If the server cannot be reached, or is too old.
    """

    def __init__(
        self,
        api_key: str,
        endpoint: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._key = api_key
        self._endpoint = endpoint
        self._sleep = sleep
        self._summary, self._core = self.attempt(self._connect, ATTEMPTS_TO_CONNECT)
        self.database_version: str = self._summary.db_version
        self.endpoint: str = self._summary.base_endpoint

    def count(self, criteria: dict[str, Any]) -> int:
        """Number of summary documents that meet criteria in the API's own names."""
        return int(self.attempt(lambda: self._summary.count({**criteria, "_limit": 1})))

    def search(
        self, fields: Sequence[str], page: int, size: int, **query: Any
    ) -> list[dict[str, Any]]:
        """Page of summary documents; `page` starts at 1, `query` is that of the official client.

        Parameters
        ----------
        fields : sequence of str
        page : int
            From 1.
        size : int
            Documents of a page.
        **query
            As the official client's.
        """
        return self.attempt(
            lambda: self._summary.search(
                fields=list(fields),
                all_fields=False,
                chunk_size=size,
                num_chunks=1,
                _page=page,
                **query,
            )
        )

    def functionals(self, material_ids: Sequence[str]) -> dict[str, str]:
        """Functionals that structures were relaxed with, as run types, where the server knows.

        Summary documents name the calculation of the structure only; what it ran with is in the
        core documents, one request for a page of materials.
        """
        fields = ["material_id", "origins", "run_types"]
        documents = self.attempt(
            lambda: self._core.search(
                material_ids=list(material_ids), fields=fields, all_fields=False
            )
        )
        by_id = {usual_id(d["material_id"]): _functional(d) for d in documents}
        return {i: functional for i, functional in by_id.items() if functional}

    def attempt(self, call: Callable[[], T], attempts: int = ATTEMPTS) -> T:
        """Call until it succeeds, trying again makes no sense, or has been tried enough.

        Parameters
        ----------
        call : callable
        attempts : int
            In all.

        Raises
        ------
        ScreeningError
            In one line, without the key.
        """
        from mp_api.client.core.exceptions import MPRestError
        from requests.exceptions import RequestException

        passing = (MPRestError, RequestException, json.JSONDecodeError)
        try:
            return patiently(
                call,
                lambda error: isinstance(error, passing) and not _is_final(error),
                attempts,
                self._sleep,
            )
        except passing as error:
            raise ScreeningError(self._in_words(error)) from None

    def _connect(self) -> tuple[Any, Any]:
        """Clients of the summary and of the core documents."""
        from mp_api.client import MPRester
        from mp_api.client.core.exceptions import MPRestWarning
        from mp_api.client.routes.materials.materials import MaterialsRester
        from mp_api.client.routes.materials.summary import SummaryRester

        with warnings.catch_warnings():
            warnings.filterwarnings("error", ".*may not be compatible", MPRestWarning)
            try:
                rester = MPRester(self._key, endpoint=self._endpoint, mute_progress_bars=True)
            except MPRestWarning:
                raise ScreeningError(
                    "the server's API is older than the installed mp-api can talk to"
                ) from None
        options = {
            "api_key": self._key,
            "endpoint": rester.endpoint,
            "use_document_model": False,
            "mute_progress_bars": True,
            "timeout": TIMEOUT,
        }
        return SummaryRester(**options), MaterialsRester(**options)

    def _in_words(self, error: Exception) -> str:
        text = without_secrets(" ".join(str(error).split()).replace(self._key, "***"))
        status = _status(error)
        lower = text.lower()
        if status in (401, 403) and "expired" in lower:
            return f"the Materials Project key has expired: renew it at {KEY_PAGE}"
        if status == 401 or (status == 403 and ("authentication" in lower or "key" in lower)):
            return f"the Materials Project does not know this key: check it at {KEY_PAGE}"
        if status == 403:
            return "the Materials Project refuses this machine's requests (403 Forbidden)"
        if status in (400, 404, 422) or "does not support the request" in text:
            return (
                "the Materials Project's API does not understand this request: the installed "
                f"mp-api is too old or too new for it ({_shorten(text)})"
            )
        if "429" in lower or "too many" in lower:
            return "the Materials Project asks for fewer requests (429): try again later"
        if status and status >= 500:
            return f"the Materials Project's server has a problem ({status}): try again later"
        if any(word in lower for word in ("max retries exceeded", "timed out", "resolve")):
            host = mask_uri(self._endpoint or "api.materialsproject.org")
            return f"cannot reach the Materials Project ({host}): is there a network?"
        return f"the Materials Project's answer is broken ({_shorten(text)}): try again later"


def _functional(document: dict[str, Any]) -> str | None:
    """Run type of the calculation that a core document's structure comes from."""
    run_types = document.get("run_types")
    if not isinstance(run_types, dict):
        return None
    by_task = {usual_id(task): run_type for task, run_type in run_types.items()}
    for origin in document.get("origins") or ():
        if origin.get("name") == "structure" and origin.get("task_id"):
            return by_task.get(usual_id(origin["task_id"]))
    return None


def _status(error: BaseException) -> int | None:
    """HTTP status in an error of the official client."""
    match = re.search(r"status code (\d{3})", str(error))
    return int(match.group(1)) if match else None


def _is_final(error: BaseException) -> bool:
    """Whether another attempt would end in the same way."""
    status = _status(error)
    if status is not None:
        return 400 <= status < 500 and status not in (408, 429)
    return "does not support the request" in str(error) or "not a valid" in str(error)


def _shorten(text: str, length: int = 160) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."
