"""The report of a fit: sentences, tables, law.json and pictures."""
