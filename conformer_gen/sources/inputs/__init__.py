"""The inputs of a source as local streams of text: paths, archives and URLs."""
