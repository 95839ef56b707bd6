"""The geometry that molecules of a user bring along: as text, and as a store."""
