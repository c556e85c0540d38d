"""The gRPC server to which institutions connect: sessions, participants, admission, bans, TLS.

Import from the modules: `certificates` and `bans` must not wait for torch, which the hub needs.
"""
