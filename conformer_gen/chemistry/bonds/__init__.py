"""Which atoms are bonded where a file gives coordinates without bonds, or beside a SMILES. Imports RDKit."""
