"""Addresses of databases by the names of their providers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from screening.errors import ScreeningError
from screening.sources.optimade import PREFIX
from screening.sources.optimade.query import INSTALL
from screening.sources.optimade.server import OptimadeServer, Sleep

NAMED = 8  # databases that a message names


def base_url_of(source: str, sleep: Sleep) -> str:
    """Address of a database.

    Parameters
    ----------
    source : str
        ``optimade:`` and a provider, such as ``optimade:oqmd``; of a provider with several
        databases ``optimade:alexandria/alexandria-pbe``; or the address of a server.
    sleep : callable
        Waits for a number of seconds.

    Raises
    ------
    ScreeningError
        If there is no such provider or database, or the address is none.
    """
    name = source.removeprefix(PREFIX)
    if "://" in name:
        return _checked(name)
    provider, _, database = name.partition("/")
    databases = _databases(provider, sleep)
    if database:
        databases = [d for d in databases if d.id == database] or _unknown(name, databases)
    if len(databases) > 1:
        raise ScreeningError(
            f"{source}: this provider has several databases: "
            f"{_named(f'{PREFIX}{provider}/{d.id}' for d in databases)}"
        )
    return databases[0].base_url


def check_address(source: str) -> None:
    """Refuse the address of a server that cannot be one, before it is written anywhere.

    Raises
    ------
    ScreeningError
        Without what is in the address.
    """
    address = source.removeprefix(PREFIX)
    if "://" in address:
        _checked(address)


def _checked(url: str) -> str:
    """The address with the version of the interface at its end.

    Raises
    ------
    ScreeningError
        If it is no address, or has more in it: a password would be stored with the run.
    """
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise ScreeningError(
            f"{PREFIX} needs a provider or the address of a server, such as "
            f"{PREFIX}https://example.org/optimade"
        )
    if parts.username or parts.password:
        raise ScreeningError(
            f"the address of {parts.hostname} has a user name or password in it, which would be "
            "stored with the run: put them into ~/.netrc"
        )
    if parts.query or parts.fragment:
        raise ScreeningError(
            f"the address of {parts.hostname} has a query: give the base URL only, and the filter "
            "as --optimade-filter"
        )
    base = re.sub(r"/structures$", "", url.rstrip("/"))
    return base if re.search(r"/v\d+(\.\d+)*$", base) else f"{base}/v1"


@dataclass(frozen=True)
class _Database:
    id: str
    base_url: str


def _databases(provider: str, sleep: Sleep) -> list[_Database]:
    """The databases of a provider, by the list of providers and the provider's own list."""
    index = _index_of(provider)
    links = OptimadeServer(_checked(index), sleep).get("links").get("data")
    databases = []
    for link in links if isinstance(links, list) else []:
        attributes = link.get("attributes") if isinstance(link, dict) else None
        if not isinstance(attributes, dict) or attributes.get("link_type") != "child":
            continue
        url = attributes.get("base_url")
        url = url.get("href") if isinstance(url, dict) else url
        if isinstance(url, str) and isinstance(link.get("id"), str):
            databases.append(_Database(link["id"], _checked(url)))
    if not databases:
        raise ScreeningError(f"{PREFIX}{provider}: this provider lists no database of its own")
    return databases


def _index_of(provider: str) -> str:
    """Address of a provider's list of its databases."""
    providers = {str(entry.get("id")): entry for entry in _listed_providers()}
    if provider not in providers:
        having = sorted(name for name, entry in providers.items() if entry.get("base_url"))
        raise ScreeningError(
            f"{PREFIX}{provider}: there is no such OPTIMADE provider; there are "
            f"{', '.join(having)}, and {PREFIX}https://... for any server"
        )
    url: Any = providers[provider].get("base_url")
    url = url.get("href") if isinstance(url, dict) else url
    if not url:
        raise ScreeningError(f"{PREFIX}{provider}: this provider has no server")
    return str(url)


def _listed_providers() -> list[dict[str, Any]]:
    """OPTIMADE's own list; that of the installed package where there is no network."""
    try:
        from optimade.utils import get_providers
    except ImportError:
        raise ScreeningError(INSTALL) from None
    from requests.exceptions import RequestException

    try:
        listed: list[dict[str, Any]] = get_providers()
    except (RequestException, ValueError, KeyError, TypeError, AttributeError):
        listed = []
    if listed:
        return listed
    from optimade.server.data import providers

    return [{"id": entry["id"], **entry["attributes"]} for entry in providers["data"]]


def _unknown(name: str, databases: list[_Database]) -> list[_Database]:
    raise ScreeningError(
        f"{PREFIX}{name}: this provider has no such database; it has "
        f"{_named(database.id for database in databases)}"
    )


def _named(names: Any) -> str:
    names = list(names)
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
