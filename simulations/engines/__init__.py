"""Simulation engines: one process, or Flower's simulation."""
