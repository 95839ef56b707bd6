"""Downloads that survive interruptions."""
