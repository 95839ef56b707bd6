"""The checkpoints of a run: written share by share, published, found and read again."""
