"""prepare: catalog -> dataset."""
