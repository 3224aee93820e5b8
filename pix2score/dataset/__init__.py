"""A prepared training set: its card, its plan, its shards."""
