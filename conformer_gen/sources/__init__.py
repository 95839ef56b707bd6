"""Where molecules come from: files in, one ``SourceMolecule`` a row out."""
