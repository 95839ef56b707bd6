"""What a fit reports: sentences, tables, law.json and pictures."""
