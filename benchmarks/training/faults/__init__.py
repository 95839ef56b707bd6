"""``python -m benchmarks.training.faults``: what happens to long runs, done to a small one."""
