"""GEOM's conformer ensembles (Axelrod and Gómez-Bombarelli 2022, Sci. Data 9, 185), in their form without pickles.

Each object of a MessagePack file is a map of SMILES → a molecule with a list of conformers, each of which has an energy
and rows of atomic number, x, y and z. It is read molecule by molecule. The pickles of RDKit molecules that the data set
has, too, are refused: a pickle is a program.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from conformer_gen.sources.frame_files.frames import Frame, bad_frame, evenly_spaced, group_frames
from conformer_gen.sources.frame_settings import FrameFormat
from conformer_gen.sources.inputs.file_names import stem
from conformer_gen.sources.molecule import SourceMolecule
from conformer_gen.sources.source import Source, SourceSettings
from unimol_scale.errors import SourceError
from unimol_scale.store.schema import Float64

MOST_BYTES = 64 << 20  # of one molecule; 10,000 conformers of 50 atoms are 18 MB
LONGEST_LIST = 100_000
LARGEST_NUMBER = 1_000  # that is taken for one of an element, and may be refused as none
PICKLES = (".pickle", ".pkl")
PICKLE_MARKS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
REMEDY = (
    "is a pickle, which is a program and is not run; take drugs_crude.msgpack or qm9_crude.msgpack of the same data "
    "set, or write the molecules of the pickles as SDF where you trust them, and read those with --source sdf"
)


def read_geom(path: Path, config: SourceSettings) -> Iterator[SourceMolecule]:
    """Yield one row for each molecule, with its conformers, and one for each that cannot be read.

    Raises:
        SourceError: the file is a pickle.
    """
    settings = GEOM_FORMAT.resolved(config.frames)
    with path.open("rb") as file:
        if file.read(2) in PICKLE_MARKS:
            raise SourceError(f"{path} {REMEDY}")
        file.seek(0)
        for name, smiles, molecule in _molecules(stem(path.name), file):
            if isinstance(molecule, SourceMolecule):
                yield molecule
            else:
                yield from group_frames(_frames(name, smiles, molecule, settings.most), settings)


def _molecules(where: str, file: IO[bytes]) -> Iterator[tuple[str, str, Any]]:
    """Yield a name, the SMILES and what stands with it for each molecule; where the data ends too early, the row."""
    import msgpack

    unpacker = msgpack.Unpacker(
        file,
        max_buffer_size=MOST_BYTES,
        max_str_len=LONGEST_LIST,
        max_bin_len=LONGEST_LIST,
        max_array_len=LONGEST_LIST,
        max_map_len=LONGEST_LIST,
        max_ext_len=0,
    )
    at = 0
    try:
        while (left := _map_size(unpacker)) is not None:
            for _ in range(left):
                at += 1
                smiles, molecule = unpacker.unpack(), unpacker.unpack()
                yield f"{where}:{at}", smiles if isinstance(smiles, str) else "", molecule
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        problem = f"{where}: what follows molecule {at} cannot be read: {type(error).__name__} {str(error)[:200]}"
        yield "", "", SourceMolecule(id=f"{where}:truncated", problem=problem, ends_early=True)


def _map_size(unpacker: Any) -> int | None:  # noqa: ANN401 - of msgpack
    """Return how many molecules the next object has; None at the end of the file."""
    import msgpack

    begin = unpacker.tell()
    try:
        size: int = unpacker.read_map_header()
    except msgpack.OutOfData:
        if unpacker.tell() > begin:
            raise
        return None
    return size


def _frames(name: str, smiles: str, molecule: Any, most: int) -> Iterator[Frame | SourceMolecule]:  # noqa: ANN401
    conformers = molecule.get("conformers") if isinstance(molecule, dict) else None
    if not isinstance(conformers, list) or not conformers or not smiles:
        yield bad_frame(name, "unreadable_row", "it is no SMILES with a list of conformers")
        return
    for at in evenly_spaced(len(conformers), most).tolist():
        frame, conformer = f"{name}:{at + 1}", conformers[at]
        try:
            atoms = np.asarray(conformer["xyz"], np.float64)
            if atoms.ndim != 2 or atoms.shape[1] != 4 or not _are_whole(atoms[:, 0]):
                raise ValueError(f"its atoms are no rows of number, x, y, z: they have the shape {atoms.shape}")
        except (ValueError, TypeError, KeyError) as error:
            yield bad_frame(frame, "unreadable_row", str(error)[:200])
            continue
        yield Frame(
            id=frame,
            numbers=atoms[:, 0].astype(np.int64),
            positions=atoms[:, 1:],
            name=name,
            smiles=smiles,
            energy=conformer.get("totalenergy"),
        )


def _are_whole(numbers: Float64) -> bool:
    return bool(((numbers == np.rint(numbers)) & (np.abs(numbers) < LARGEST_NUMBER)).all())


def _refuse(name: str) -> str:
    return REMEDY if name.endswith(PICKLES) else ""


GEOM_FORMAT = FrameFormat(units={"positions": "Å", "energy": "Ha"}, theory="GFN2-xTB (CREST)")
GEOM = Source(
    name="geom", suffixes=(".msgpack",), read_file=read_geom, geometry="all", frames=GEOM_FORMAT, refuse=_refuse
)
