"""The two-track atom/pair Transformer of Uni-Mol2: encodings in, atom and pair representations out."""
