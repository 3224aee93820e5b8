"""A scores folder: tables, manifests, staged pieces, and its readers."""
