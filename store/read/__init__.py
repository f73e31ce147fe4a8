"""Reading a store by its commit records, every byte checked. Imports nothing that writes."""
