"""OPTIMADE: structures of any database that has the common interface."""

PREFIX = "optimade:"


def is_optimade(source: str) -> bool:
    """Whether the name of a source is that of an OPTIMADE database."""
    return source.startswith(PREFIX)
