"""Answers of an OPTIMADE server, page by page, with retries and with errors in one line.

The client of the package `optimade` keeps all pages in memory, and what came is lost with the
page that fails. Here a page is forgotten when the next one is asked for, so that a database of
millions can be streamed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

from screening.errors import ScreeningError, one_line
from screening.secrets import without_secrets
from screening.sources.retries import patiently

ATTEMPTS = 6
TIMEOUT = 120  # s without a byte
PAGE_TIME = 600  # s for all of a page
MAX_BYTES = 512 << 20  # of a page
MAX_WAIT = 120  # s, if a server asks for more, it is asked for later
PASSING = (408, 425, 429, 500, 502, 503, 504)

Sleep = Callable[[float], None]
Params = dict[str, str | int | None]


class RefusalError(ScreeningError):
    """A server understood that it does not want to answer; asking again makes no sense.

    Parameters
    ----------
    message : str
    status : int
        Of HTTP.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class _PassingError(Exception):
    """What may be over the next time."""


@dataclass(frozen=True)
class Page:
    """A page of structures.

    Parameters
    ----------
    entries : list
        As JSON gives them.
    next : str or None
        Address of the next page.
    meta : dict
    """

    entries: list[Any]
    next: str | None
    meta: dict[str, Any]


class OptimadeServer:
    """One database.

    Parameters
    ----------
    base_url : str
        With the version of the interface, such as ``https://example.org/optimade/v1``.
    sleep : callable, optional
        Waits for a number of seconds.
    """

    def __init__(self, base_url: str, sleep: Sleep = time.sleep) -> None:
        import requests

        self.base_url = base_url
        self.host = urlsplit(base_url).hostname or ""
        self._sleep = sleep
        self._session = requests.Session()
        self._session.headers["User-Agent"] = "edos-screening"

    def get(
        self, path: str, params: Params | None = None, attempts: int = ATTEMPTS
    ) -> dict[str, Any]:
        """JSON of an endpoint.

        Parameters
        ----------
        path : str
            Behind the base URL.
        params : dict, optional
            Of the query; those that are None are left out.
        attempts : int
            In all.

        Raises
        ------
        RefusalError
            If the server does not answer this.
        ScreeningError
            In one line, if it cannot be reached, has a problem, or answers no JSON.
        """
        return self._patiently(f"{self.base_url}/{path}", params or {}, attempts)

    def page(self, url: str) -> Page:
        """A page by the link to it."""
        return self._page(self._patiently(url, {}, ATTEMPTS), url)

    def first_page(self, params: Params) -> Page:
        """The first page of structures, for the parameters of a query."""
        return self._page(self.get("structures", params), f"{self.base_url}/structures")

    def _page(self, answer: dict[str, Any], url: str) -> Page:
        entries, meta = answer.get("data"), answer.get("meta")
        if not isinstance(entries, list):
            raise ScreeningError(f"{self.host}: its answer has no list of structures")
        links = answer.get("links")
        link = links.get("next") if isinstance(links, dict) else None
        link = link.get("href") if isinstance(link, dict) else link
        next_url = self._checked(urljoin(url, link)) if isinstance(link, str) and link else None
        return Page(entries, next_url, meta if isinstance(meta, dict) else {})

    def _checked(self, url: str) -> str:
        """A link, by the scheme and port by which the server was found.

        Servers behind a proxy often write those that they have themselves.

        Raises
        ------
        ScreeningError
            If it leads to another host.
        """
        try:
            link = urlsplit(url)
            host = link.hostname
        except ValueError:
            host = None
        if host != self.host:
            raise ScreeningError(
                f"{self.host}: its link to the next page leads to another host "
                f"({str(host)!r:.80}), which is not followed; if that is the server, name it as "
                "--source optimade:https://..."
            )
        own = urlsplit(self.base_url)
        return link._replace(scheme=own.scheme, netloc=own.netloc, fragment="").geturl()

    def _patiently(self, url: str, params: Params, attempts: int) -> dict[str, Any]:
        from requests.exceptions import ReadTimeout, RequestException

        try:
            return patiently(
                lambda: self._read(url, params),
                lambda error: isinstance(error, _PassingError | RequestException),
                attempts,
                self._sleep,
            )
        except _PassingError as error:
            raise ScreeningError(f"{self.host}: {error}: try again later") from None
        except ReadTimeout:
            raise ScreeningError(
                f"{self.host}: no answer within {TIMEOUT} s: try again later"
            ) from None
        except RequestException as error:
            why = without_secrets(one_line(error, 120))
            raise ScreeningError(f"cannot reach {self.host}: is there a network? ({why})") from None

    def _read(self, url: str, params: Params) -> dict[str, Any]:
        response = self._session.get(url, params=params, timeout=TIMEOUT, stream=True)
        with response:
            if response.status_code in PASSING:
                self._wait(response.headers.get("Retry-After", ""))
                raise _PassingError(f"the server has a problem ({response.status_code})")
            body = self._body(response)
        if response.status_code != 200:
            status = response.status_code
            raise RefusalError(
                f"{self.host} does not answer this ({status}): {_detail(body)}", status
            )
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise _PassingError(f"its answer is no JSON ({one_line(error, 60)})") from None
        if not isinstance(answer, dict):
            raise _PassingError("its answer is none of OPTIMADE")
        return answer

    def _wait(self, asked: str) -> None:
        """As long as a server asks for, beside the pause between attempts."""
        if asked.isdecimal() and 0 < int(asked) <= MAX_WAIT:
            self._sleep(int(asked))

    def _body(self, response: Any) -> bytes:
        body, end = bytearray(), time.monotonic() + PAGE_TIME
        for part in response.iter_content(1 << 16):
            body += part
            if len(body) > MAX_BYTES:
                raise ScreeningError(
                    f"{self.host}: a page of it is larger than {MAX_BYTES >> 20} MB"
                )
            if time.monotonic() > end:
                raise _PassingError(f"a page takes more than {PAGE_TIME} s")
        return bytes(body)


def _detail(body: bytes) -> str:
    """What a server says of its refusal, in one line."""
    try:
        error = json.loads(body)["errors"][0]
        return without_secrets(one_line(str(error.get("detail") or error.get("title"))))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return "it does not say why"
