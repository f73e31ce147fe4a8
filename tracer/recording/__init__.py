"""Recording engines that others run: `traced(llm)`, and the plugin for `vllm serve`."""
