"""What a source is: all that is special about one kind of input, in one frozen entry. Imports nothing that reads.

To read molecules from a format of your own, write one of these in a file of your own and name it to a build:
``--source package.module:NAME``. Ours are made the same way, each beside its reader; ``registry`` lists them.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from conformer_gen.sources.frame_settings import FrameFormat, FramesConfig
from unimol_scale.errors import ConfigError

if TYPE_CHECKING:
    from conformer_gen.sources.inputs.text_streams import TextStream
    from conformer_gen.sources.molecule import SourceMolecule

READERS = ("read_stream", "read_file", "read_files")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


class SourceSettings(Protocol):
    """What a source is told of a build: those keys of ``source.*`` that are about its rows.

    Attributes:
        smiles_column: name of the SMILES column, or its number from 1; None: to be found.
        id_column: likewise of the identifiers.
        labels: label → unit, of those that the user has chosen.
        base_url: where the files lie that ``Source.expand`` names.
        frames: how files of frames are read; for a format of yours, ``FrameFormat.resolved`` fills in what is open.
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
    whenever it is called: a build that was stopped reads its input again and passes over what is done. A row that is no
    molecule is yielded too, with its ``problem``, so that it is counted. The reader runs in the main process of a
    build; workers get rows and never the reader. It should hold few rows in memory at a time.

    Attributes:
        name: of the source; the store goes to ``data/<name>`` if nothing else is said.
        suffixes: of its files, in lower case and without that of a compression: what is looked for in directories.
        read_stream: (the text of one file, the settings) → its rows. Compression, tar archives, character sets and data
            that ends too early are taken care of.
        read_file: (one file, the settings) → its rows, for formats that are read at random and not as a stream of text;
            such files are not read out of archives.
        read_files: (all files, the settings) → the rows, for formats in which several files belong together.
        geometry: which rows have coordinates, which are then kept: ``none``, ``some`` or ``all``. Conformers are made
            for rows without.
        labels: label → unit of the numbers that every row carries, in the order of ``SourceMolecule.labels``.
        takes_labels: whether a user can choose labels, with ``source.labels``; a source has these or its own.
        takes_columns: whether ``source.smiles_column`` and ``source.id_column`` mean something.
        bundled: returns the file of a source that needs no input.
        expand: (a word of ``--input`` that is no path, the settings) → the URLs that it stands for; None if it stands
            for none.
        word: what such words are, for messages, such as "a tranche (four letters, such as CDAA)".
        refuse: (name of a file) → why it cannot be of this source, which a name can tell; "" if it can be.
        ids_in_files: whether ``SourceMolecule.id`` is unique only inside a file; a build from several sources then puts
            the file's name before it.
        count_file: (a file) → how many rows it has, where it says so itself.
        frames: of files of elements with coordinates: what their format says of them; ``source.frames`` then means
            something.
        counted_as: name of the source as which its files are read to count rows, where those of that source's suffixes
            have one line for each row; "" for itself.
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
    count_file: Callable[[Path], int] | None = None
    frames: FrameFormat | None = None
    counted_as: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"name must be a plain word, it names a folder; got {self.name!r}")
        given = [reader for reader in READERS if getattr(self, reader) is not None]
        if len(given) != 1:
            raise ConfigError(f"a source has one of the readers {', '.join(READERS)}, got {', '.join(given) or 'none'}")
        if not self.suffixes and self.bundled is None:
            raise ConfigError("suffixes is empty, so that no file of this source could be found in a directory")
        for suffix in self.suffixes:
            if not suffix.startswith(".") or suffix != suffix.lower():
                raise ConfigError(f"suffixes are of the form '.csv', in lower case; got {suffix!r}")
        if self.labels and self.takes_labels:
            raise ConfigError("labels are the source's own or chosen by the user (takes_labels), not both")

    @property
    def in_archives(self) -> bool:
        """Whether its files are read as streams, out of archives too, or from their beginning alone."""
        return self.read_file is None

    @property
    def has_geometry(self) -> bool:
        """Whether its own coordinates are kept; rows may still lack them."""
        return self.geometry != "none"

    @property
    def may_lack_geometry(self) -> bool:
        """Whether there can be rows for which coordinates are made."""
        return self.geometry != "all"
