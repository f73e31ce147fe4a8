"""Which experts are worth training for a language that the bundled model hardly knows, with fair controls."""
