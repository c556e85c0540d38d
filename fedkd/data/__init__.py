"""Labelled data sets: opening them, and partitioning them among institutions.

Import from the modules: an import contract allows `datasets` and `partition` only to the vault's
local data and to simulations, so nothing is handed on here.
"""
