"""The commands that produced every measured number: ``python -m benchmarks.<folder>.<name>`` in the repository."""
