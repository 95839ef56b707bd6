"""The best learning rate of every size, budget and batch size, and the law of it."""
