"""Turns molecules into a conformer store with RDKit on Ray. Imports no torch; shares only the store with training."""

import logging

logging.getLogger(__name__).addHandler(logging.NullHandler())
