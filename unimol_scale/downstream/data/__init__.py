"""Prepares users' data: tables, conformers, splits, batches."""
