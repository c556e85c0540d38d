"""Coordinator and institutions together: the command ``fedkd``, engines, benchmarks, audits.

The only package that imports both ``fedkd.server`` and ``fedkd.client``. Nothing is imported here:
torch takes seconds, and ``fedkd --help`` must not wait for it.
"""
