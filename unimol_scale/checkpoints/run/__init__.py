"""The checkpoints of a run: writing them as shares, publishing, finding and reading them."""
