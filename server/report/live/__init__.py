"""The page of a run that goes on: read its folder, serve the page on this machine, refresh it."""
