"""The vault: the only code that opens an institution's private images and model weights."""
