"""Turns refusals of the system (disk, permissions, open files, ports, shared memory) into one line of advice."""

import errno
import resource

from unimol_scale.errors import ConfigError

# More than any command here opens; some systems have a hard limit of a billion.
_MOST_FILES = 65_536
_PORT_TAKEN = ("EADDRINUSE", "Address already in use", "address already in use")
_FILES = ("Too many open files", "received 0 items of ancdata")
_SHARED_MEMORY = ("shared memory", "/torch_", "(shm)", "Bus error")
_REMEDIES = {
    errno.ENOSPC: "the disk is full: make room, and run the same command again to continue",
    errno.EDQUOT: "your disk quota is used up: make room, and run the same command again to continue",
    errno.EROFS: "the file system is read-only: choose a place that can be written",
    errno.EACCES: "permission denied: choose another place, or change the permissions",
    errno.EPERM: "permission denied: choose another place, or change the permissions",
    errno.ENOTDIR: "a part of the path is a file, not a folder: choose another place",
    errno.EISDIR: "it is a folder, not a file: choose another name",
    errno.EEXIST: "the name is taken: choose another one",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
}


def raise_file_limit() -> None:
    """Raise the limit on open files of this process and its children as far as the system permits, up to 65,536."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def require_open_files(number: int) -> None:
    """Refuse to start if the system permits fewer open files than ``number``.

    Raises:
        ConfigError: the limit is lower.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit != resource.RLIM_INFINITY and limit < number:
        raise ConfigError(
            f"this process may open {limit:,} files and needs about {number:,}: raise the limit, for example by "
            "`ulimit -n 4096`, or lower data.workers"
        )


def port_is_taken(error: BaseException) -> bool:
    """Return whether an error says that another program uses a network port."""
    taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
    return taken or any(sign in str(error) for sign in _PORT_TAKEN)


def explain(error: BaseException) -> str | None:
    """Return one line that says what the system refused and what to do; None for other kinds of errors."""
    text = str(error)
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.EMFILE, errno.ENFILE) or any(sign in text for sign in _FILES):
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        return (
            f"there are too many open files; this process may open {limit:,}. Raise the limit, for example by "
            "`ulimit -n 4096`, or lower data.workers"
        )
    if port_is_taken(error):
        return f"another program uses the network port: {text.splitlines()[0]}"
    if isinstance(error, RuntimeError) and any(sign in text for sign in _SHARED_MEMORY):
        return (
            "there is no room in shared memory (/dev/shm), through which loader processes hand over their batches. "
            "Make it larger (docker run --shm-size=8g), lower data.workers or data.prefetch, or set data.workers=0"
        )
    if isinstance(error, OSError) and number in _REMEDIES:
        where = f"{error.filename}: " if error.filename is not None else ""
        return f"{where}{_REMEDIES[number]} ({error.strerror})"
    return None
