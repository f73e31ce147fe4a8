"""Checking a store: every file against its record, and what is in it against what a trace must be."""
