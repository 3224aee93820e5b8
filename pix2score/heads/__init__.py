"""What a model predicts: head specifications, bin edges, presets, and what each kind answers."""
