"""``python -m benchmarks.training.objectives``: what each objective learns with the same budget."""
