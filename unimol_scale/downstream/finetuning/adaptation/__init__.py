"""Chooses the weights of a pretrained backbone that fine-tuning updates."""
