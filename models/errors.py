"""The error that a user can act on."""

from collections.abc import Sequence

_NAMED = 5


class ModelError(ValueError):
    """A structure, data set or checkpoint that cannot be used; the message is one line."""


def named(ids: Sequence[str]) -> str:
    """All ids of a handful; of more, the first ones and how many there are.

    Examples
    --------
    >>> named(["mp-1", "mp-2"])
    'mp-1, mp-2'
    >>> named([f"mp-{i}" for i in range(1, 9)])
    'mp-1, mp-2, mp-3, mp-4, mp-5 and 3 more'
    """
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return ", ".join(ids[:_NAMED]) + more
