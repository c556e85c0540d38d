"""One run: recorder, checkpoint, manifest, quorum, and the drivers with and without Flower."""
