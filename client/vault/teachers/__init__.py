"""Teachers that institutions bring along: one file for each format, all opened in ``opening``."""
