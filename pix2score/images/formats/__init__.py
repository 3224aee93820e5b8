"""Image formats one by one: signatures, what a broken file can still give, what no decoder here takes."""
