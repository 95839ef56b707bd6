"""Decisions about the whole set: pieces of the input, duplicates, exclusions, sampling by scaffold, and the split."""
