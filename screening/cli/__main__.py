"""``python -m screening.cli``."""

from screening.cli import script

script()
