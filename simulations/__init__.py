"""Both sides in one place: engines, experiments, the command."""
