"""Predictions for molecules, and the table to which they are written."""
