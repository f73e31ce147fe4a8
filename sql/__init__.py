"""The SQL files of every view, table and table macro, as package data; analytics.database.documentation reads them."""
