"""Control socket: how a Flower ClientApp reaches the owner's long-running agent."""
