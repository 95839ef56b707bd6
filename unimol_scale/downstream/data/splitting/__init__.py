"""What splits of all kinds are made of, and splits into folds."""
