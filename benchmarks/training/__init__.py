"""Benchmarks of pretraining: the model's step, the loop around it, its data, its objectives, and what it survives."""
