"""The coordinator: asks institutions and trains the student. Opens no private data set.

Import from the modules: most of them need torch, and the command line must not wait for it.
"""
