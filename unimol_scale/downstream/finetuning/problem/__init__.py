"""The data to which the models of all seeds and folds are fitted, and notes about it for the reader."""
