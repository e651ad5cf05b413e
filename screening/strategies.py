"""Names of the strategies by which candidates are chosen; :mod:`screening.acquisition` has them.

Here for the command line, which names them without numpy.
"""

from typing import Literal

Strategy = Literal["best", "probability", "budget", "uncertainty", "diverse", "random"]
