"""How many threads the operations of one thread compute with; torch counts them thread by thread."""

import torch


def set_own_threads(count: int) -> None:
    """Let the calling thread's operations compute with ``count`` threads, whatever other threads do.

    Before a thread first asks how many it has, torch gives it the number that was set last in any thread, and forgets
    what was set in this one: so it is asked first.
    """
    torch.get_num_threads()
    torch.set_num_threads(count)
