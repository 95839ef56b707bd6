"""Scaling laws: from the losses of runs to the choice of the next run. Imports no torch."""
