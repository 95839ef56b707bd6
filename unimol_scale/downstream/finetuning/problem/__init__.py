"""What the models of all seeds and folds are fitted to, and what a reader should know about it."""
