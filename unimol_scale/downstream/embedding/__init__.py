"""Vectors of molecules from a pretrained model."""
