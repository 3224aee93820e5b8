"""train: dataset -> model."""
