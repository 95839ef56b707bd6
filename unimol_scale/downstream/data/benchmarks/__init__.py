"""Reads public benchmarks as tables with their official splits."""
