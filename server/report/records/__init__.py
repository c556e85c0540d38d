"""The files of a run: result, events, arrays of samples, the exported student."""
