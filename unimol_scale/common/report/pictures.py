"""What the plots of all reports share: colours, grid and saving. Imports matplotlib when a figure is saved."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from unimol_scale.common.files import commit_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, RED, GREY = "#1f77b4", "#d62728", "#777777"
_PALE_GREY = "#e6e6e6"
_DOTS_PER_INCH = 130
_WIDTH_ENDS = 20  # bytes of a PNG: signature 8, length 4, "IHDR" 4, width 4


def png_width(content: bytes) -> int | None:
    """Return the width of a PNG picture in pixels; None for content of another kind."""
    if not content.startswith(b"\x89PNG\r\n\x1a\n") or len(content) < _WIDTH_ENDS:
        return None
    return int.from_bytes(content[_WIDTH_ENDS - 4 : _WIDTH_ENDS], "big")


def draw_grid(axes: Any, axis: str = "both") -> None:  # noqa: ANN401
    """Draw a pale grid behind the data, for one axis ("x" or "y") or both ("both")."""
    axes.grid(True, which="major", axis=axis, color=_PALE_GREY, linewidth=0.7)
    axes.set_axisbelow(True)


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure as PNG, complete or absent, without the version of matplotlib in its metadata.

    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)  # instead of pyplot, which keeps figures in a global state
    options: dict[str, Any] = {"dpi": _DOTS_PER_INCH, "format": "png", "metadata": {"Software": None}}
    commit_file(path, lambda temporary: figure.savefig(temporary, **options))
