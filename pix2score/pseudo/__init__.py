"""pseudo: what a model is sure of becomes a catalog of labels for another one."""
