"""Ladders of training runs: planned, launched, and extended by the run that the law recommends."""
