"""Scaling laws: their forms, the fit and its intervals, and what follows from a law."""
