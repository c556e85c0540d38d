"""Labelled data sets: opening them, and partitioning them among institutions."""
