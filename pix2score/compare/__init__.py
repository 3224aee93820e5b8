"""Several trainings over one dataset, with several seeds each, side by side in one table."""
