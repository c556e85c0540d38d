"""Experiment files: TOML settings, their defaults and validation."""
