"""Ladders of training runs: planned, launched, and continued where the law says."""
