"""Fault injection: a federation of real processes, and faults of every kind while it runs.

    python -m fedkd.simulations.faults [--faults N] [--seed S] --json FILE

``fault_kinds`` plans faults, ``deployment_files`` and ``cluster`` set the federation up,
``faulty_run`` injects faults into one run, ``ledger_audit`` checks ledgers and journals afterwards,
``campaign`` does all of it for many runs. Nothing is imported here, so that ``--help`` is quick.
"""
