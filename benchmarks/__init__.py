"""The commands behind every measured number: ``python -m benchmarks.<floor>.<name>``, from the repository's root."""
