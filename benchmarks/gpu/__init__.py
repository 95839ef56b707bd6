"""The system on a GPU: kernels counted without one, and the acceptance run on one."""
