"""Jobflow makers that screen candidates and validate predictions by DFT."""
