"""Users' own geometries of molecules: as text, and as a conformer store."""
