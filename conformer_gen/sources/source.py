"""The definition of a source: everything specific to one kind of input, in one frozen entry. Imports no readers.

To read molecules from a format of your own, create one of these in a file of your own and name it in a build:
``--source package.module:NAME``. The built-in sources are made the same way, each beside its reader; ``registry`` lists
them.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from conformer_gen.sources.frame_settings import FrameFormat, FramesConfig
from unimol_scale.errors import ConfigError

if TYPE_CHECKING:
    from conformer_gen.sources.file_range import FileRange
    from conformer_gen.sources.inputs.text_streams import TextStream
    from conformer_gen.sources.molecule import SourceMolecule

READERS = ("read_stream", "read_file", "read_files")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


class SourceSettings(Protocol):
    """The settings of a build that a reader gets: the keys of ``source.*`` that concern its rows.

    Attributes:
        smiles_column: name of the SMILES column, or its number from 1; None: to be found.
        id_column: the same for the identifiers.
        labels: label → unit, for the labels that the user has chosen.
        base_url: location of the files that ``Source.expand`` names.
        frames: how files of frames are read; for a format of your own, ``FrameFormat.resolved`` fills in open values.
    """

    @property
    def smiles_column(self) -> str | None: ...  # noqa: D102

    @property
    def id_column(self) -> str | None: ...  # noqa: D102

    @property
    def labels(self) -> Mapping[str, str]: ...  # noqa: D102

    @property
    def base_url(self) -> str: ...  # noqa: D102

    @property
    def frames(self) -> FramesConfig: ...  # noqa: D102


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """One kind of input.

    A source has one reader. It yields a ``SourceMolecule`` for every row, in the order of the input, and the same rows
    whenever it is called: a resumed build reads its input again and skips what is done. A row that is not a molecule is
    yielded too, with its ``problem``, so that it is counted. Readers run on the machine where the build was started: of
    the built-in sources several at a time, each in a process of its own, of a source of your own in the main process. A
    reader should hold few rows in memory at a time.

    Attributes:
        name: name of the source; by default the store goes to ``data/<name>``.
        suffixes: suffixes of its files, in lower case and without those of compressions; directories are searched for
            them.
        read_stream: (text of one file, settings) → its rows. Compression, tar archives, character sets and truncated
            data are handled elsewhere.
        read_file: (one file, settings) → its rows, for formats that need random access instead of a stream of text;
            such files are not read from archives.
        read_files: (all files, settings) → the rows, for formats in which several files belong together.
        geometry: which rows have coordinates, which are then kept: ``none``, ``some`` or ``all``. Conformers are made
            for the other rows.
        labels: label → unit of the numbers that every row carries, in the order of ``SourceMolecule.labels``.
        takes_labels: whether users choose labels with ``source.labels``; a source has either these or its own.
        takes_columns: whether ``source.smiles_column`` and ``source.id_column`` apply.
        bundled: returns the file of a source that needs no input.
        expand: (a word of ``--input`` that is not a path, settings) → the URLs that it stands for; None if it stands
            for none.
        word: description of such words for messages, such as "tranche (four letters, such as CDAA)".
        refuse: (name of a file) → why it cannot belong to this source, as far as its name tells; "" if it can.
        ids_in_files: whether ``SourceMolecule.id`` is unique only within a file; a build from several files then
            prefixes it with the file's name.
        ranges: (one file, settings, most of them) → the ranges that can be read on their own, in the order of their
            rows, or ``WHOLE`` alone. The rows of all ranges are those of the file. ``read_stream`` gets them as
            ``TextStream.within``.
        read_range: (one file, settings, one of these ranges) → its rows; for sources with ``read_file``.
        count_file: (a file) → how many rows it has, if the file states it.
        frames: for files of elements with coordinates: defaults of their format; ``source.frames`` then applies.
        counted_as: name of the source whose reader counts the rows of these files, if files with that source's suffixes
            have one line per row; "" for itself.
    """

    name: str
    suffixes: tuple[str, ...] = ()
    read_stream: "Callable[[TextStream, SourceSettings], Iterator[SourceMolecule]] | None" = None
    read_file: "Callable[[Path, SourceSettings], Iterator[SourceMolecule]] | None" = None
    read_files: "Callable[[Sequence[Path], SourceSettings], Iterator[SourceMolecule]] | None" = None
    geometry: Literal["none", "some", "all"] = "none"
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    takes_labels: bool = False
    takes_columns: bool = False
    bundled: Callable[[], Path] | None = None
    expand: "Callable[[str, SourceSettings], list[str] | None] | None" = None
    word: str = ""
    refuse: Callable[[str], str] | None = None
    ids_in_files: bool = False
    ranges: "Callable[[Path, SourceSettings, int], list[FileRange]] | None" = None
    read_range: "Callable[[Path, SourceSettings, FileRange], Iterator[SourceMolecule]] | None" = None
    count_file: Callable[[Path], int] | None = None
    frames: FrameFormat | None = None
    counted_as: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"name must be a plain word, it names a folder; got {self.name!r}")
        given = [reader for reader in READERS if getattr(self, reader) is not None]
        if len(given) != 1:
            raise ConfigError(f"a source has one of the readers {', '.join(READERS)}, got {', '.join(given) or 'none'}")
        if (self.read_range is not None) != (self.ranges is not None and self.read_file is not None):
            raise ConfigError("ranges and read_range belong together, beside read_file")
        if self.ranges is not None and self.read_files is not None:
            raise ConfigError("ranges are of one file; read_files has several")
        if not self.suffixes and self.bundled is None:
            raise ConfigError("suffixes is empty, so no file of this source could be found in a directory")
        for suffix in self.suffixes:
            if not suffix.startswith(".") or suffix != suffix.lower():
                raise ConfigError(f"suffixes are of the form '.csv', in lower case; got {suffix!r}")
        if self.labels and self.takes_labels:
            raise ConfigError("labels are the source's own or chosen by the user (takes_labels), not both")

    @property
    def in_archives(self) -> bool:
        """Whether its files are read as streams, also from archives, or only from the file system."""
        return self.read_file is None

    @property
    def has_geometry(self) -> bool:
        """Whether its own coordinates are kept; some rows may still lack them."""
        return self.geometry != "none"

    @property
    def may_lack_geometry(self) -> bool:
        """Whether coordinates may have to be made for some rows."""
        return self.geometry != "all"
