"""Benchmarks of the builder: speed, memory, accuracy of its conformers, and recovery from faults."""
