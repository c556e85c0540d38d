"""Openers of teacher files: ONNX, skops, pt2 and boosted trees."""
