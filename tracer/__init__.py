"""Everything that touches a model: corpora, the plan, the patched vLLM engine, tracing."""
