"""Privacy audits: attacks on releases of this project, for ``fedkd audit``.

An audit proves violations, and never a guarantee. Nothing is imported here: torch and scipy take
seconds, and ``fedkd audit --help`` must not wait for them.
"""
