"""What must never be written down: passwords of databases and the Materials Project's key."""

from __future__ import annotations

import re
from urllib.parse import unquote

HIDDEN = "***"
_URI = re.compile(r"(mongodb(?:\+srv)?://)[^\s'\"]+")
_CREDENTIALS = re.compile(r"(\w://)[^\s/@'\"]+@")
_known: set[str] = set()


def keep_secret(secret: str) -> None:
    """Remember a password or key, so that :func:`without_secrets` hides it from now on."""
    if secret:
        _known.add(secret)


def keep_uri_secret(text: str) -> None:
    """Remember the user, password and options of a URI, whatever characters are in them.

    Examples
    --------
    >>> keep_uri_secret("mongodb://ann:it%27s@db.example.org/s")
    >>> without_secrets("cannot log in as ann:it's")
    'cannot log in as ***'
    """
    user, _, place = text.partition("://")[2].rpartition("@")
    for part in (user, place.partition("?")[2]):
        if ":" in part or "=" in part:  # a mere name may be in any other word
            keep_secret(part)
            keep_secret(unquote(part))


def without_secrets(text: str) -> str:
    """The text without secrets that are known, and without credentials and options of URIs.

    Examples
    --------
    >>> without_secrets("mongodb://ann:hush@db.example.org/s?tlsCertificateKeyFilePassword=x")
    'mongodb://db.example.org/s'
    >>> without_secrets("https://ann:hush@example.org/x")
    'https://***@example.org/x'
    """
    for secret in sorted(_known, key=len, reverse=True):  # one may begin like another
        text = text.replace(secret, HIDDEN)
    return _CREDENTIALS.sub(rf"\1{HIDDEN}@", _URI.sub(_plain_uri, text))


def _plain_uri(found: re.Match[str]) -> str:
    rest = found[0].removeprefix(found[1])
    return found[1] + rest.rpartition("@")[2].partition("?")[0]
