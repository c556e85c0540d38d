"""Adapters: what a library answers, as the signals of a teacher of images or of rows."""
