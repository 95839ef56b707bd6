"""A standard error that claims to be a terminal and keeps what is written to it."""

import io


class Terminal(io.StringIO):
    """A terminal; ``gone``: whether it has been closed."""

    gone = False

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self.gone:
            raise OSError(5, "Input/output error")
        return super().write(text)
