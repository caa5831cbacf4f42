"""Life of endpoints, hooks, health, log: everything beside the packet path."""
