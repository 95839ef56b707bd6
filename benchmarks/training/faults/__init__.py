"""``python -m benchmarks.training.faults``: the faults of long runs, caused in a small one."""
