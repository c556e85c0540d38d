"""Comparison of experiments over seeds: tables, CSV, plots."""
