"""score: catalog and model -> the next snapshot."""
