"""Graphs of crystals, the input of every architecture."""
