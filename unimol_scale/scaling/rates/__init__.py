"""The best learning rate for every size, budget and batch size, and a law for it."""
