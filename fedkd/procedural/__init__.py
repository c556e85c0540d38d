"""Procedural priors: synthetic samples drawn without data, and their rendering from recipes."""
