"""The gRPC server to which institutions connect: sessions, participants, admission, bans, TLS.

Import from the modules: `fedkd.server.coordinator`, which `participant_list` imports, itself
imports `bans`; and `certificates` must not wait for torch, which the hub needs.
"""
