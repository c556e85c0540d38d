"""Long-running checks: each prints figures, and exits with 0 if its promise holds.

``fuzz``, ``soak``, ``ledger_race``, ``resume`` and ``golden`` run as
``python -m fedkd.simulations.checks.NAME``. Nothing is imported here, so that ``--help`` is quick.
"""
