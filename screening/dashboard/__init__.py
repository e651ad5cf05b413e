"""The dashboard: runs and materials of a store, live in a browser, for a group.

Dash has what it needs. crystal-toolkit does not earn its weight here: it asks for Dash 3 and
scikit-learn, and of its components we would use the drawing of a structure alone, which
:func:`screening.report.charts.structure_chart` has.
"""
