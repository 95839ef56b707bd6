"""What a fine-tuning would need, before it starts."""
