"""The plan of a trace: prompts, token ids, and the shards that a corpus is cut into."""
