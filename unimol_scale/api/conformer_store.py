"""``build_store`` and ``open_store``: a conformer store as rows of NumPy arrays and as RDKit molecules.

Reading a store needs only NumPy and Arrow; the builder and RDKit are imported when a function needs them. Shapes: M
molecules; n atoms, m bonds and k conformers of one molecule.
"""

import operator
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from unimol_scale.api.call_settings import a_call, as_list, given_sources, read_call
from unimol_scale.api.equal_content import same_content
from unimol_scale.common.text.argument_names import path_text
from unimol_scale.config import to_tree
from unimol_scale.store.remote import DEFAULT_CACHE, DEFAULT_CACHE_BYTES, is_url, open_remote_store
from unimol_scale.store.schema import ConformerOrigin, ConformerStereo, Float32, Float64, Int32, MoleculeRecord, UInt8
from unimol_scale.store.shards import Store, StoreSplit
from unimol_scale.store.shards import open_store as open_local_store

if TYPE_CHECKING:
    from rdkit import Chem

ROWS_TOGETHER = 256  # rows that are read at once when a store is iterated over
_BUILD_ARGUMENTS = {
    "--source": "source", "--input": "input", "--output": "output", "--conformers": "conformers", "--limit": "limit",
    "--sample": "sample", "--exclude": "exclude", "--hydrogens": "hydrogens", "--engine": "engine",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class MoleculeRow:
    """One molecule of a store; its atoms are in the order of its SMILES. Rows with equal content are equal.

    Attributes:
        id: the molecule's name in its source.
        smiles: canonical isomeric SMILES.
        split: "train" or "valid".
        atomic_numbers: uint8 [n].
        bonds: atom indices from 0, uint16 [m, 2]; each bond appears once.
        atom_features: codes, uint8 [n, 8]; see ``unimol_scale.store.schema.ATOM_VOCABULARIES``.
        bond_features: codes, uint8 [m, 3]; see ``BOND_VOCABULARIES`` in the same module.
        coordinates: Å, float32 [k, n, 3]; each conformer is centred on its mean.
        planar_coordinates: coordinates of the 2D depiction in Å, float32 [n, 2].
        energies: force-field energies in kcal/mol, float32 [k]; NaN for conformers without one.
        origins: how each conformer was made, [k] names of ``ConformerOrigin``, such as "MMFF" or "DFT".
        stereo: how the stereochemistry of each conformer compares with that of the SMILES, [k] names of
            ``ConformerStereo``.
        labels: name → value, NaN if it is missing. Units: ``ConformerStore.label_units``.
        atom_labels: labels of atoms, if the store has any: name → [k, n, w], "forces" (kcal/mol/Å) or "charges" (e);
            NaN for missing values.
        record: the same data as stored.
    """

    id: str
    smiles: str
    split: str
    atomic_numbers: UInt8
    bonds: npt.NDArray[np.uint16]
    atom_features: UInt8
    bond_features: UInt8
    coordinates: Float32
    planar_coordinates: Float32
    energies: Float32
    origins: tuple[str, ...]
    stereo: tuple[str, ...]
    labels: Mapping[str, float]
    atom_labels: Mapping[str, Float32]
    record: MoleculeRecord

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MoleculeRow):
            return NotImplemented
        mine, its = ({**vars(row.record), "split": row.split, "labels": dict(row.labels)} for row in (self, other))
        return same_content(mine, its)

    def __hash__(self) -> int:
        return hash((self.id, self.smiles, self.split))

    def __repr__(self) -> str:
        atoms, conformers = len(self.atomic_numbers), len(self.coordinates)
        return f"MoleculeRow({self.smiles!r}, {atoms} atoms, conformers: {conformers}, {self.split})"

    def to_rdkit(self) -> "Chem.Mol":
        """Return an RDKit molecule with the conformers, the labels and, if they are stored, the hydrogens.

        The atoms are in the same order as here. Each conformer has the properties ``origin``, ``stereo`` and, if it is
        known, ``energy_kcal_mol``. The molecule has one property for each label that is not missing.

        Returns:
            ``rdkit.Chem.Mol`` with n atoms and k conformers, in Å.

        Raises:
            StoreError: the SMILES does not match the atoms of the record.
        """
        from conformer_gen.chemistry.graph import rdkit_molecule

        molecule = rdkit_molecule(self.record)
        for name, value in self.labels.items():
            if not np.isnan(value):
                molecule.SetDoubleProp(name, value)
        return molecule


class MoleculeRows(Sequence[MoleculeRow]):
    """Molecules of a store. An index returns one row; a slice, a list of indices or a mask returns ``MoleculeRows``.

    Columns are read on access. A column of numbers is an array [M]; a column whose length differs between molecules is
    a list of M arrays.

    Args:
        store: the store that holds the molecules.
        places: [M] indices of the molecules, counted over all of train and then all of valid.
        splits: the splits of the store, in that order; None opens them.
    """

    def __init__(self, store: Store, places: Sequence[int], splits: Mapping[str, StoreSplit] | None = None) -> None:
        self._store = store
        self._places = places
        self._splits = splits or {name: store.split(name) for name in store.manifest.splits}

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, which: int) -> MoleculeRow: ...

    @overload
    def __getitem__(self, which: "slice | Sequence[int] | npt.NDArray[Any]") -> "MoleculeRows": ...

    def __getitem__(self, which: Any) -> "MoleculeRow | MoleculeRows":
        """Return the molecule at an index (negative: from the end), or those of a slice, indices or a mask."""
        if isinstance(which, slice):
            return MoleculeRows(self._store, self._places[which], self._splits)
        try:
            number = operator.index(which)
        except TypeError:
            return MoleculeRows(self._store, self._chosen(which), self._splits)
        if not -len(self) <= number < len(self):
            raise IndexError(f"there is no molecule {number:,}: {len(self):,} molecules are counted from 0")
        (row,) = self._read([self._places[number]])
        return row

    def __iter__(self) -> Iterator[MoleculeRow]:
        for start in range(0, len(self), ROWS_TOGETHER):
            yield from self._read(self._places[start : start + ROWS_TOGETHER])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self):,} molecules of {self._store.location})"

    @property
    def ids(self) -> npt.NDArray[np.object_]:
        """Names of the molecules in their source, str [M]."""
        return self._texts(StoreSplit.ids)

    @property
    def smiles(self) -> npt.NDArray[np.object_]:
        """Canonical SMILES, str [M]."""
        return self._texts(StoreSplit.smiles)

    @property
    def num_atoms(self) -> Int32:
        """Atoms of each molecule, int32 [M]."""
        return self._sizes()[0]

    @property
    def num_conformers(self) -> Int32:
        """Conformers of each molecule, int32 [M]."""
        return self._sizes()[1]

    @property
    def atomic_numbers(self) -> list[UInt8]:
        """Atomic numbers, M arrays uint8 [n]."""
        return [row.atomic_numbers for row in self]

    @property
    def coordinates(self) -> list[Float32]:
        """Coordinates in Å, M arrays float32 [k, n, 3]."""
        return [row.coordinates for row in self]

    @property
    def energies(self) -> list[Float32]:
        """Force-field energies in kcal/mol, M arrays float32 [k]; NaN for conformers without one."""
        return [row.energies for row in self]

    @property
    def labels(self) -> dict[str, Float64]:
        """Name of a label → values, float64 [M], NaN for missing ones; units: ``label_units`` of the store."""
        rows = [row.labels for row in self]
        return {name: np.array([row[name] for row in rows], np.float64) for name in self._store.manifest.labels}

    def _chosen(self, which: Any) -> list[int]:  # noqa: ANN401
        """Return the places of the molecules chosen by indices or by a mask."""
        numbers = np.asarray(which)
        numbers = numbers if numbers.size else numbers.astype(np.int64)  # an empty list has no type of its own
        if numbers.ndim != 1 or numbers.dtype.kind not in "biu":
            raise TypeError(
                "molecules are chosen by a number, a slice, a list of numbers or a mask, not by "
                f"{reprlib.repr(which)}; columns are attributes, such as store.smiles"
            )
        places: list[int] = np.asarray(self._places, np.int64)[numbers].tolist()
        return places

    def _by_split(self, places: Sequence[int]) -> Iterator[tuple[str, npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """Yield for each split its name, positions in ``places``, and the indices of those molecules in the split."""
        every = np.asarray(places, np.int64)
        start = 0
        for name, split in self._splits.items():
            inside = np.flatnonzero((every >= start) & (every < start + len(split)))
            if len(inside):
                yield name, inside, every[inside] - start
            start += len(split)

    def _read(self, places: Sequence[int]) -> list[MoleculeRow]:
        found: dict[int, MoleculeRow] = {}
        for name, inside, numbers in self._by_split(places):
            records = self._splits[name].records(numbers)
            found |= {at: self._row(record, name) for at, record in zip(inside.tolist(), records, strict=True)}
        return [found[at] for at in range(len(places))]

    def _row(self, record: MoleculeRecord, split: str) -> MoleculeRow:
        return MoleculeRow(
            id=record.id,
            smiles=record.smiles,
            split=split,
            atomic_numbers=record.atomic_number,
            bonds=record.bond_index,
            atom_features=record.atom_features,
            bond_features=record.bond_features,
            coordinates=record.coordinates,
            planar_coordinates=record.planar_coordinates,
            energies=record.energy,
            origins=tuple(ConformerOrigin(code).name for code in record.conformer_origin.tolist()),
            stereo=tuple(ConformerStereo(code).name for code in record.conformer_stereo.tolist()),
            labels=dict(zip(self._store.manifest.labels, record.labels, strict=True)),
            atom_labels=record.atom_labels,
            record=record,
        )

    def _texts(self, read: Any) -> npt.NDArray[np.object_]:  # noqa: ANN401
        values = np.full(len(self), "", object)
        for name, inside, numbers in self._by_split(self._places):
            values[inside] = read(self._splits[name], numbers)
        return values

    def _sizes(self) -> tuple[Int32, Int32]:
        atoms, conformers = (np.zeros(len(self), np.int32) for _ in range(2))
        for name, inside, numbers in self._by_split(self._places):
            atoms[inside], conformers[inside] = self._splits[name].sizes(numbers)
        return atoms, conformers


class ConformerStore(MoleculeRows):
    """A finished store with all its molecules as rows: train first, then valid.

    Attributes:
        location: folder or URL.
        path: folder; for a remote store, the folder of its cache.
        splits: "train" and "valid" → the molecules of each.
        label_units: name of a label → its unit, "" if it has none.
        metadata: the manifest of the store: source, seed, how conformers were made, parameters, library versions,
            counts of molecules, and so on.

    Args:
        store: the return value of ``unimol_scale.store.shards.open_store``.
    """

    def __init__(self, store: Store) -> None:
        rows = {name: split.rows for name, split in store.manifest.splits.items()}
        super().__init__(store, range(sum(rows.values())))
        self.location, self.path = store.location, store.path
        ends = np.cumsum(list(rows.values())).tolist()
        self.splits = {
            name: MoleculeRows(store, range(end - number, end), self._splits)
            for (name, number), end in zip(rows.items(), ends, strict=True)
        }
        self.label_units = dict(store.manifest.labels)
        tree = to_tree(store.manifest)
        self.metadata: dict[str, Any] = {key: value for key, value in tree.items() if key not in ("splits", "labels")}

    @property
    def train(self) -> MoleculeRows:
        """The training molecules."""
        return self.splits["train"]

    @property
    def valid(self) -> MoleculeRows:
        """The validation molecules."""
        return self.splits["valid"]

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        parts = ", ".join(f"{len(rows):,} {name}" for name, rows in self.splits.items())
        return f"ConformerStore({self.location!r}: {len(self):,} molecules, {parts})"


def build_store(
    source: str | None = None,
    *,
    input: str | Path | Sequence[str | Path] | None = None,
    sources: Sequence[Mapping[str, Any]] | None = None,
    output: str | Path | None = None,
    config: str | Path | None = None,
    progress: bool = False,
    settings: Mapping[str, Any] | None = None,
    **more: Any,  # noqa: ANN401
) -> ConformerStore:
    """Build a conformer store and open it; continue a build that was interrupted, or open one that is finished.

    Args:
        source: "sample" (the NCI set inside RDKit, no download), "smiles", "csv", "parquet", "sdf", "zinc20",
            "pcqm4mv2", "qm9", "unimol-lmdb", "xyz", "ase-db", "hdf5", "geom", "md17", "pdb-ligands", "mol2". None:
            ``config`` names it.
        input: files, directories or URLs; "sample" needs none.
        sources: a list of sources: ``[{"name": "sdf", "input": "a.sdf"}, {"name": "sample", "limit": 9}]``. A molecule
            that occurs in several sources is taken from the first one. Ids have the form "sdf:mol1". Labels
            that a source lacks are NaN.
        output: folder of the store; None: data/<source>.
        config: YAML file with settings, such as those in configs/build; the arguments override it.
        progress: show messages and bars on standard error; otherwise messages go to the loggers ``conformer_gen`` and
            ``unimol_scale``, and nothing is printed.
        settings: any setting by its dotted key, such as ``{"conformers.energy_window": 5.0}``.
        more: settings by the names of the command's flags (``conformers``, ``hydrogens``, ``engine``, ``exclude``,
            ``limit``, ``sample``, ``seed``, ``workers``, ``backend``, ``ray_address``), or groups of settings, such as
            ``curate={"valid_fraction": 0.1}``.

    Returns:
        The store, opened.

    Raises:
        ConfigError: a setting is unknown or wrong. The message names it, and the nearest valid one.
        SourceError: an input is missing, or holds no usable molecule.
        ConformerError: no molecule got a conformer.
        StoreError: the output folder holds something else, or cannot be written.

    Source:
        Conformers: ETKDGv3 (Wang et al. 2020, doi 10.1021/acs.jcim.0c00025), relaxed by MMFF94 (Halgren 1996) or, for
        molecules outside its parameters, UFF; all in RDKit.

    Example:
        >>> import unimol_scale as us
        >>> store = us.build_store("sample", output="data/sample", limit=60, conformers=2)
        >>> len(store.train), len(store.valid)
        (57, 3)
    """
    from conformer_gen.config import SHORT_NAMES, read_build_config
    from conformer_gen.run.driver import build as run_build

    with a_call(_BUILD_ARGUMENTS, progress=progress):
        named = {"source": source, "input": as_list(input), "output": output, **given_sources(sources), **more}
        if "exclude" in named:
            named["exclude"] = as_list(named["exclude"])
        tree, origin = read_call(build_store, config, SHORT_NAMES, settings or {}, named)
        return ConformerStore(run_build(read_build_config(tree, origin)).store)


def open_store(
    path: str | Path, *, cache_dir: str | Path = DEFAULT_CACHE, cache_bytes: int = DEFAULT_CACHE_BYTES
) -> ConformerStore:
    """Open a finished store for reading, on disk or at a URL. Its files are opened when they are first needed.

    Args:
        path: folder of the store, or its URL (http, s3, gs or any other scheme of fsspec).
        cache_dir: for a URL: folder on a local disk in which shards are kept.
        cache_bytes: for a URL: largest total size of the kept shards, in bytes.

    Returns:
        All molecules as rows; ``.train`` and ``.valid`` are the molecules of one split.

    Raises:
        StoreError: there is no finished store, it has another format version, or it cannot be fetched.
        ConfigError: ``path`` is neither text nor a path.

    Source:
        The format is described in ``unimol_scale.store.schema``; the files are Arrow or LMDB.

    Example:
        >>> import unimol_scale as us
        >>> store = us.open_store("data/sample")
        >>> row = store[0]
        >>> row.smiles
        'CC1=CC(=O)C=CC1=O'
        >>> row.coordinates.shape, row.coordinates.dtype  # conformers, atoms, xyz in Å
        ((2, 9, 3), dtype('float32'))
        >>> row.energies.shape  # kcal/mol
        (2,)
        >>> row.to_rdkit().GetNumConformers()
        2
        >>> store.valid.smiles[0]
        'c1ccc(N=C(c2ccccc2)c2ccccc2)cc1'
        >>> [len(numbers) for numbers in store[:3].atomic_numbers] == store[:3].num_atoms.tolist()
        True
        >>> store.metadata["counts"]["read"]
        60
    """
    place = path_text(path, "path", "a folder or a URL")
    with a_call({}):
        if is_url(place):
            return ConformerStore(open_remote_store(place, Path(cache_dir), cache_bytes))
        return ConformerStore(open_local_store(place))
