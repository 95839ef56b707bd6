"""What predictions are returned as."""
