"""What is known of a model before it runs: facts of its config, the routing rule of its family, its tokenizer."""
