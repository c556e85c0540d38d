"""Benchmarks of running time, one program for each subject.

``wire``, ``loop``, ``overlap`` and ``many_institutions`` run as
``python -m fedkd.simulations.benchmarks.NAME``. Nothing is imported here: ``--help`` stays quick.
"""
