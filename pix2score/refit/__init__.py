"""Heads learnt anew from today's labels and the embeddings that a scores folder stores."""
