"""Plots and pages of what a screening found."""
