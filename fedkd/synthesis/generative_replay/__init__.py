"""Generative replay: auto-encoders that remember synthesised images for the student."""
