"""A run from the outside: its settings, its folder, how it starts, resumes and stops."""
