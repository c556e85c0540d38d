"""Sampling from procedural priors: which prior, which half of its range, which of many samples."""
