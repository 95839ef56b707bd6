"""Files of frames, elements and coordinates without a graph: XYZ, ASE, HDF5, GEOM, MD17 and PDB, a reader each."""
