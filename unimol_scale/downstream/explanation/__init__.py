"""Which atoms make a fine-tuned model predict what it predicts."""
