"""The error that a user can act on, and errors of others in one line."""

from __future__ import annotations

import re


class ScreeningError(ValueError):
    """Input that cannot be used; the message is one line: what, why, and what to do."""


def one_line(error: BaseException | str, length: int = 200) -> str:
    """Message of an error in one line, its type if it has none.

    Parameters
    ----------
    error : BaseException or str
    length : int
        Characters behind which it is cut off.
    """
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # colours
    message = " ".join(text.split()) or type(error).__name__
    return message if len(message) <= length else message[: length - 3] + "..."
