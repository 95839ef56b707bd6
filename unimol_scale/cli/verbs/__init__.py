"""The verbs of ``unimol-scale``, one file each: arguments, the call that does the work, and printing."""
