"""Spectra: grids and values, the settings they are learned in, and how they are compared."""
