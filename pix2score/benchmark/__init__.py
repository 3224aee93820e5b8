"""benchmark: how fast each stage is, beside its limit and its peers."""
