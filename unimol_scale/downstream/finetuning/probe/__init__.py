"""Heads that are fitted to the vectors of a frozen backbone, which are computed once."""
