"""The error of the store that a user can act on."""


class StoreError(RuntimeError):
    """A store or a document that cannot be used; the message is one line, without passwords."""
