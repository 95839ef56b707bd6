"""Which weights of a pretrained backbone a fine-tuning moves."""
