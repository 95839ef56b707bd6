"""The Triton programs themselves; Triton is imported only where one is started."""
