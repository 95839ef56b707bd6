"""The report of a fine-tuning: what it says, and its pictures."""
