"""One run: recorder, checkpoint, manifest, quorum, and the drivers with and without Flower.

Import from the modules: `fedkd.server.coordinator` imports `checkpoint` and is itself imported by
the drivers.
"""
