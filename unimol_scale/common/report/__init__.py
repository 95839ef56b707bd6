"""What the reports of all rooms are made of: pictures and tables."""
