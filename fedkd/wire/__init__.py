"""The wire: what is said, in what order, in which bytes, over which channel. Knows no strategy."""
