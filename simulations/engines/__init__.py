"""Simulation engines: run coordinator and institutions of an experiment on one machine.

``local`` runs all in one process, ``flower_simulation`` in Flower's simulation; ``evaluation``
scores the result. Nothing is imported here: torch, Flower and Ray take seconds.
"""
