"""A shard in memory: its checks, the order of its tokens, the rank order of its experts, its roll-ups."""
