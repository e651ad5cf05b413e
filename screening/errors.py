"""The error that a user can act on."""


class ScreeningError(ValueError):
    """Input that cannot be used; the message is one line: what, why, and what to do."""
