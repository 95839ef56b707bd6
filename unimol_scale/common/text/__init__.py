"""Readers of text files: compressed, delimited, or one JSON object a line."""
