"""What a store's files are: paths, tables, records, the grids of weights, the checksums of blocks."""
