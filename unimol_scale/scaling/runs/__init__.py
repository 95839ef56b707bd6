"""Finished runs, read from run folders, event files or tables of losses."""
