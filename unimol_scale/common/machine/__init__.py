"""The machine that a command runs on: threads, memory, devices, limits of the system."""
