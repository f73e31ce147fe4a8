"""What three papers say of routing and language, tried on the bundled model."""
