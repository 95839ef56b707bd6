"""Comparison of finished cross-validations of the same data."""
