"""Fault injection: a federation of real processes, and faults of every kind while it runs.

    python -m fedkd.simulations.faults [--faults N] [--seed S] --json FILE

``fault_kinds`` says what there is, ``fault_plan`` plans it, ``deployment_files`` and ``cluster``
set the federation up. ``faulty_run`` executes a run; ``institution_faults``, ``intruder_faults``
and ``coordinator_faults`` inject into it. ``ledger_audit`` and ``deployment_audit`` check ledgers
and journals afterwards, ``campaign`` does all of it for many runs. Nothing is imported here, so
that ``--help`` is quick.
"""
