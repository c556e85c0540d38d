"""Drivers of a run: over the hub alone, and over the nodes of a Flower grid.

Import from the modules: Flower takes seconds to import, and a coordinator without it needs none.
"""
