"""The gRPC hub: sessions, participants, admission, bans, certificates, health."""
