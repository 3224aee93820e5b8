"""Nearest neighbours among stored embeddings: the index, questions to it, and groups of near-identical pictures."""
