"""Baselines on the experiments' own partitions: what other ways of learning together come to.

Run ``python -m fedkd.simulations.baselines``. Nothing is imported here: ``--help`` stays quick.
"""
