"""Benchmarks of scaling-law fits: published points, and how often intervals contain the true value."""
