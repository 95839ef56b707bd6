"""Molecules in, conformer store out: RDKit on Ray. Imports no torch; shares only the store with the trainer."""

import logging

logging.getLogger(__name__).addHandler(logging.NullHandler())
