"""One file for each verb of ``unimol-scale``: its arguments, what it calls, and what it prints."""
