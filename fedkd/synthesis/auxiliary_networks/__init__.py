"""Auxiliary networks that are trained beside a generator: discriminators, and their interface."""
