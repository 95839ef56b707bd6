"""Benchmarks of scaling-law fits: published points, and how often intervals hold the truth."""
