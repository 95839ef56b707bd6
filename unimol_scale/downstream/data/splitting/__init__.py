"""Building blocks of all splits, and splits into folds."""
