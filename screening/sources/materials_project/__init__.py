"""The Materials Project as a source of candidates."""
