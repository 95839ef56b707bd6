"""Benchmarks of the builder: its speed and memory, how near its conformers come, and what it survives."""
