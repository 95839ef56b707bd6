"""Finds the bonds of coordinates that come without bonds, alone or beside a SMILES. Imports RDKit."""
