"""The whole set of molecules: pieces of the input, duplicates, exclusions, sampling by scaffold, and the split."""
