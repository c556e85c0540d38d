"""Training an institution's own teacher: supervised, by DP-SGD, or as a PATE ensemble."""
