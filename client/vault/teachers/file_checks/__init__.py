"""Checks of teacher files before a library reads them, and a memory limit while they are opened."""
