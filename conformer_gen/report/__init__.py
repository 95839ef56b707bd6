"""The report of a build: tables and pictures."""
