"""With which status commands end, for those that end and those that start them. Standard library only."""

EXIT_FAILED = 1  # the work went wrong, or what was checked is not as it should be
EXIT_USER_ERROR = 2
# Of a run that was stopped after it had saved its state: the same command goes on (sysexits' EX_TEMPFAIL).
EXIT_STOPPED = 75
EXIT_INTERRUPTED = 130  # as shells say of Ctrl-C
EXIT_NO_READER = 141  # as shells say of a closed pipe

# What is said after Ctrl-C where nothing is lost.
GOES_ON = "Stopped. The same command goes on where it was."
