"""Which molecules a step sees, and how they are cut into micro-batches: pure arithmetic."""
