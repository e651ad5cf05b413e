"""Errors of the DFT engines."""


class DosError(RuntimeError):
    """A DOS that cannot be computed or used; the message is one line: what, why, what to do."""


class WindowError(DosError):
    """A DOS that does not reach from 4 eV below the VBM to 4 eV above the CBM."""
