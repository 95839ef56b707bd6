"""From a conformer store to batches: which molecules a step sees, what the model does not see of them, and padding."""
