"""Nearest neighbours among stored embeddings: the index, questions to it, near-identical pictures."""
