"""A run as seen from outside: its settings, its folder, and how it starts, resumes and stops."""
