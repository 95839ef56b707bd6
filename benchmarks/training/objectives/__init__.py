"""``python -m benchmarks.training.objectives``: what each objective learns with an equal budget."""
