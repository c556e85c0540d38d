"""Compression of an institution's teacher to a narrower network, by grafting, inside the vault.

Import from the modules: Opacus, which `private_grafting` needs, is slow to import.
"""
