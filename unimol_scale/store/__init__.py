"""The conformer store: the one thing that the builder and the trainer share. Imports no torch, no RDKit, no Ray."""
