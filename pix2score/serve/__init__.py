"""A model for single pictures, and as one file for other runtimes."""
