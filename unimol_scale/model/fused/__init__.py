"""The updates of both tracks as Triton kernels between matrix products, for GPUs; optional, as Triton is."""
