"""Estimates what a fine-tuning needs before it starts."""
