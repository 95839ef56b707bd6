"""Benchmarks of others as tables with their official split."""
