"""Rows of a user as molecules with labels: tables, conformers, splits, batches."""
