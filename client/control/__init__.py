"""Control socket: how a Flower ClientApp reaches the owner's long-running agent.

Import from the modules: `client` runs in Flower's process, `server` in the owner's.
"""
