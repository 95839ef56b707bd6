"""What a build reports of itself: tables and pictures."""
