"""Whole jobs: tracing a corpus into a store, and saying beforehand what that would take."""
