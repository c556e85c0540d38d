"""The owner's configuration: its TOML file and template, TLS credentials, and the state folder.

Import from the modules: `template` is read where torch and gRPC are not wanted.
"""
