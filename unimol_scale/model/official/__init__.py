"""The released Uni-Mol2 files: read safely, and their weights in the layout of this model and back."""
