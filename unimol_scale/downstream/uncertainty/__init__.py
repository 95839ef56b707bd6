"""Uncertainty as functions of arrays: conformal intervals and sets, and the applicability domain of a model."""
