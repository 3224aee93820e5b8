"""The next snapshot: what has to be scored, the narrow table merged, published. No Ray."""
