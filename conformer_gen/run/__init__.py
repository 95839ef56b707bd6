"""A build as a running program: its stages, workers, directory and final store."""
