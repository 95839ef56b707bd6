"""The command line: arguments, printing and exit statuses. May import every other package; none imports it."""
