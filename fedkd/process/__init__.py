"""What a process needs whatever it does: command line, logs, crash log, private files, limits.

Nothing is imported here, so that ``--help`` does not wait.
"""
