"""From a conformer store to batches: who is in a step, what is hidden from the model, and the padded arrays."""
