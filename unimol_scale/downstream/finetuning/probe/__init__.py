"""Heads fitted to the vectors of a frozen backbone, which are computed only once."""
