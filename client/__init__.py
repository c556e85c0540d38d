"""An institution's side: it answers queries, as its owner's policy allows.

Whoever has to sign for it reads in this order:

    release/       the release gate, the only way out; one module for each release mode
    ledger/        what is charged before an answer leaves; the hash chain; privacy accounts
    vault/         the only code that opens private data and weights; external teachers; training
    institution/   vault, policy, ledger and gate in one object; its card; how it is built
    config/        the owner's file, the TLS files it names, and the state folder
    daemon.py      the process that serves an institution
    control/       the local socket: what Flower's side may ask of that process
    sessions/      agents that dial out to the coordinators that the owner names

`cli.py` and `client_app.py` are the entry points of people and of Flower. `monitoring/` holds the
text for the owner's terminal, and metrics.
"""
