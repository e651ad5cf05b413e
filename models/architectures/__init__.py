"""Networks from graph to spectrum, by name in :mod:`models.architectures.registry`."""
