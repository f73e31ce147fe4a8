"""Everything that asks questions of a store: views, metrics, selections, masks. Imports neither torch nor vllm."""
