"""From bytes to pixels, in one way for training, scoring and single pictures."""
