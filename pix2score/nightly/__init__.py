"""The next snapshot: what has to be scored, the scores table merged, published. No Ray."""
