"""The exit statuses of the commands, for the commands and for code that starts them. Standard library only."""

EXIT_FAILED = 1  # the work failed, or a check did not pass
EXIT_USER_ERROR = 2
# The run was stopped after saving its state; the same command continues it (EX_TEMPFAIL of sysexits.h).
EXIT_STOPPED = 75
EXIT_INTERRUPTED = 130  # the status that shells report for Ctrl-C (128 + SIGINT)
EXIT_NO_READER = 141  # the status that shells report for a closed pipe (128 + SIGPIPE)

# Printed after Ctrl-C if no work is lost.
GOES_ON = "Stopped. Run the same command again to continue where it stopped."
