"""One molecule: its canonical form, graph, stereo and conformers. Pure functions over RDKit molecules."""
