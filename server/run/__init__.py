"""What a run keeps and shows: recorder, checkpoint, manifest, quorum, public data, console.

Import from the modules: most of them need torch or Flower, and the command line waits for neither.
"""
