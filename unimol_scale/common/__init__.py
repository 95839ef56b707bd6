"""What several packages share and none of them owns. Imports no package of the project but its errors."""
