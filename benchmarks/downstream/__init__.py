"""Benchmarks of pretrained models in use: fine-tuning and embedding."""
