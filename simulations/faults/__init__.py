"""A federation in real processes, and everything that can go wrong with it, on purpose.

    python -m fedkd.simulations.faults [--faults N] [--seed S] --json FILE

`kinds` says what can go wrong, `site` what there is, `cast` which processes play, `run` injects
while one run goes on, `audit` reads what is left in the books, and `campaign` adds it all up.
"""
