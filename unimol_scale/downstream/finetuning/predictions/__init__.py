"""What is predicted of molecules, and the table that it is written to."""
