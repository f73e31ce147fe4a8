"""The SQL files of every view, table and table macro, as package data; analytics.documentation reads them."""
