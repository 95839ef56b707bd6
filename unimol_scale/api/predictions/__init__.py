"""The object that ``predict`` returns."""
