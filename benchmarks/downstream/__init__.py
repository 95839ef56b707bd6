"""Benchmarks of what pretrained models are good for: fine-tuning and embedding."""
