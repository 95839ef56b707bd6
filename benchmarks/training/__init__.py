"""Benchmarks of pretraining: the model's step, training loop, data, objectives, and recovery from faults."""
