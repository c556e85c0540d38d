"""Training of an institution's teacher: supervised, by DP-SGD, or as a PATE ensemble.

Import from the modules: Opacus, which `dp_sgd` needs, is slow to import.
"""
