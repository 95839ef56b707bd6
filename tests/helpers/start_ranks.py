"""Starts the ranks of a run with the variables that every launcher sets, and ends as they end.

    python tests/helpers/start_ranks.py RANKS PORT PROGRAM ARGUMENT…

For tests that are not about a launcher: ``deepspeed`` imports torch twice before a rank begins. Imports the standard
library only.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence

# How long the other ranks have to end by themselves once one has failed.
PATIENCE_SECONDS = 10.0


def main(ranks: int, port: str, command: Sequence[str]) -> int:
    """Run the ranks to their end and return 0, or the status of one that failed."""
    processes = []
    for rank in range(ranks):
        told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_PORT": port, "MASTER_ADDR": "127.0.0.1"}
        environment = os.environ | {name: str(value) for name, value in told.items()}
        processes.append(subprocess.Popen([sys.executable, *command], env=environment))
    deadline = float("inf")
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        if any(process.returncode for process in processes):
            deadline = min(deadline, time.monotonic() + PATIENCE_SECONDS)
        time.sleep(0.02)
    failed = [process.returncode for process in processes if process.returncode]
    for process in processes:
        process.kill()
        process.wait()
    return failed[0] if failed else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
