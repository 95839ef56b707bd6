"""Attributes the predictions of a fine-tuned model to atoms."""
