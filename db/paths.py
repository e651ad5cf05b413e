"""Texts without what belongs to one machine or person: folders, user names, passwords."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

_CREDENTIALS = re.compile(r"(\b[a-zA-Z][\w+.-]*://)[^\s/@]*@")
_HOME = re.compile(
    r"(?<![\w.:/-])(?:/home|/Users|[A-Za-z]:[/\\]Users)[/\\][\w.-]+[/\\]?(?![\w/\\])"
)
# From what makes a path absolute to its last separator; not the slashes of a URI, or of eV/atom.
_FOLDERS = re.compile(
    r"(?<![\w./\\~:-])(?:file://)?(?:~[\w.-]*[/\\]|[A-Za-z]:[/\\]|\\\\|/)(?:[^\s'\"<>|:;,]*[/\\])*"
    r"(?=[^\s/\\])"
)


def without_folders(text: str) -> str:
    """Text in which absolute paths are only names, and URIs have no user and password.

    Examples
    --------
    >>> without_folders("/home/ann/My data/models/mine")
    'mine'
    >>> without_folders("cannot read '/home/ann/a.cif': at 0.5 eV/atom, ~/b.cif")
    "cannot read 'a.cif': at 0.5 eV/atom, b.cif"
    >>> without_folders("/home/ann")
    '~'
    >>> without_folders("mongodb://ann:secret@db.example.org/screening")
    'mongodb://db.example.org/screening'
    """
    if "/" not in text and "\\" not in text:
        return text
    text = _CREDENTIALS.sub(r"\1", text)
    is_one_path = _FOLDERS.match(text) and not re.search(r"[\n'\":;,]", text[2:])
    if is_one_path and not _HOME.fullmatch(text):
        return re.split(r"[/\\]", text.rstrip("/\\"))[-1]
    return _FOLDERS.sub("", _HOME.sub("~", text))


def strip_folders(
    values: dict[str, Any], unchanged: Iterable[str], where: str, counts: Counter[str]
) -> dict[str, Any]:
    """The values with all texts as :func:`without_folders` makes them, also in lists and dicts.

    Parameters
    ----------
    values : dict
    unchanged : iterable of str
        Fields that stay as they are.
    where : str
        What the values are of, for `counts`.
    counts : Counter
        Told how many texts were changed, by their place.
    """
    whole = frozenset(unchanged)
    return {
        name: value if name in whole else _stripped(value, f"{where}.{name}", counts)
        for name, value in values.items()
    }


def _stripped(value: Any, where: str, counts: Counter[str]) -> Any:
    if type(value) is str:
        text = without_folders(value)
        counts[where] += text != value
        return text
    if type(value) is dict:
        return {name: _stripped(item, f"{where}.{name}", counts) for name, item in value.items()}
    if type(value) is list:
        return [_stripped(item, where, counts) for item in value]
    return value
