"""What several packages share and none of them owns. Imports nothing of the project but errors and settings."""
