"""evaluate: model and dataset -> numbers and a report."""
