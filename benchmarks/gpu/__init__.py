"""What the system does on a GPU: kernels counted without one, and the acceptance run on one."""
