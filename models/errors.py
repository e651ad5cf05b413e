"""The error that a user can act on."""


class ModelError(ValueError):
    """A structure, data set or checkpoint that cannot be used; the message is one line."""
