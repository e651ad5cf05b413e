"""Phonon spectra from learned force constants."""
