"""Files of frames, elements and coordinates without a graph: XYZ, ASE, HDF5, GEOM and MD17, a reader each."""
