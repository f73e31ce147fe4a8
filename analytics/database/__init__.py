"""A store as a DuckDB database: connections, views, queries and their documentation."""
