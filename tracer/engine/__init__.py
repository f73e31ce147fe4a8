"""vLLM with the tap, fed with the texts of shards."""
