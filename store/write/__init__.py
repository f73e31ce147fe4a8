"""Writing shards into a store, and adding their roll-ups up."""
