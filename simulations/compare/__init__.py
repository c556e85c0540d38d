"""Comparisons of experiments over seeds, for ``fedkd compare``: variants, runs, tables, plots.

Nothing is imported here: torch and matplotlib take seconds.
"""
