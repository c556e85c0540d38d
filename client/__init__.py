"""An institution's side: it answers. To be read in this order by whoever has to sign for it.

    release.py, releases/    THE DOOR: what leaves, held against the owner's policy, by mode
    ledger.py, journal.py    what is charged before anything leaves, and cannot be unwritten
    account.py               what the same images have spent before, in whichever mode
    vault.py, teachers/      the only places that open images and weights
    institution.py           all of them in one piece; its card is all that is told unasked
    owner.py, serve.py       the owner's file, and the process that obeys it
    bell.py, doorbell.py     what Flower's side may ask of that process
    agent.py, sessions.py    dial out to coordinators that the owner named

The rest trains a teacher, keeps files or prints to the owner.
"""
