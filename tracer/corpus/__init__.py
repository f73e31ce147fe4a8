"""Reading parallel corpora: folders, tables and datasets as texts with an id and a language."""
