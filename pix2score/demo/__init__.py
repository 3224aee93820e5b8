"""demo: every stage on a drawn catalog."""
