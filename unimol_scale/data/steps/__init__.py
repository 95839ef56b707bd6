"""Which molecules are in a step, and how they are cut into micro-batches: pure arithmetic."""
