"""Writes the generated pages of docs/reference from commands, SQL files, docstrings and schemas: `make reference`."""
