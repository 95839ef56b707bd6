"""Labels: numbers, classes and bounds; how they are read, weighted, and written beside predictions."""
