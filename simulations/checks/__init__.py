"""Programs that check a promise of the project at length: printed figures, exit status 0 if it holds."""
