"""The training molecules of a fine-tuning, with which predicted molecules are compared.

``domain.parquet`` is stored beside ``finetuned.json``, which records its hash and where the domain ends
(``DomainRule``).

Shapes: M rows of the data, N training molecules, R rows, L targets, D channels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from unimol_scale.common.files import commit_file, hash_file
from unimol_scale.common.progress import track
from unimol_scale.downstream.finetuning.confidence.calibration_file import check_kept
from unimol_scale.downstream.labels.outputs import Outputs
from unimol_scale.downstream.uncertainty.domain import (
    MOST_JUDGED,
    domain_threshold,
    fingerprints,
    in_domain,
    judged_places,
    nearest_by_fingerprint,
    nearest_by_vector,
)
from unimol_scale.downstream.uncertainty.rules import DomainRule
from unimol_scale.store.schema import Float64, Int64

DOMAIN_NAME = "domain.parquet"
MOST_WITH_VECTORS = 50_000  # largest number of training rows with vectors; with more, only fingerprints are compared
_LABEL, _VECTOR = "label ", "vector"
_SHOWN_FROM = 10_000_000  # number of comparisons from which progress is shown, since they take more than some seconds

Float16 = npt.NDArray[np.float16]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class KnownMolecules:
    """Distinct training molecules.

    Attributes:
        smiles: [N] canonical SMILES.
        labels_NL: labels averaged over the rows of a molecule, NaN without labels; for named classes NaN if its rows
            differ.
        vector_ND: vectors of the first model, float16, after the LayerNorm of its head, which gives all channels the
            same scale; None if there are too many rows.
    """

    smiles: tuple[str, ...]
    labels_NL: Float64
    vector_ND: Float16 | None

    def without(self, chosen_N: npt.NDArray[np.bool_]) -> "KnownMolecules":
        """Return the other molecules."""
        keep = np.flatnonzero(~chosen_N)
        return KnownMolecules(
            smiles=tuple(self.smiles[at] for at in keep.tolist()),
            labels_NL=self.labels_NL[keep],
            vector_ND=None if self.vector_ND is None else self.vector_ND[keep],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class NearestMolecule:
    """The training molecule that is nearest to a row by fingerprint.

    Attributes:
        smiles: canonical SMILES.
        label_L: its labels, NaN for missing ones.
        similarity: Tanimoto similarity of ECFP4.
        in_domain: whether the row is in the domain.
    """

    smiles: str
    label_L: Float64
    similarity: float
    in_domain: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Neighbours:
    """The nearest training molecule of each row, and whether the row is in the domain.

    Attributes:
        smiles: [R] SMILES of the nearest molecule by fingerprint; None if there is none.
        label_RL: labels of that molecule, NaN for missing ones.
        similarity_R: Tanimoto similarity of ECFP4 to it; NaN if there is none.
        vector_similarity_R: largest cosine similarity of the model's vectors to any training molecule; None if vectors
            are not stored.
        in_domain_R: whether the row is in the domain, bool.
    """

    smiles: tuple[str | None, ...]
    label_RL: Float64
    similarity_R: Float64
    vector_similarity_R: Float64 | None
    in_domain_R: npt.NDArray[np.bool_]

    def nearest(self, row: int) -> NearestMolecule | None:
        """Return the nearest molecule of a row (from 0); None if there is none."""
        smiles = self.smiles[row]
        if smiles is None:
            return None
        return NearestMolecule(
            smiles=smiles,
            label_L=self.label_RL[row],
            similarity=float(self.similarity_R[row]),
            in_domain=bool(self.in_domain_R[row]),
        )


def known_molecules(
    smiles: Sequence[str],
    outputs: Outputs,
    labels_ML: Float64,
    row_R: Int64,
    vectors: Callable[[Int64], Float32] | None,
) -> KnownMolecules:
    """Return the distinct molecules of some rows.

    Args:
        smiles: [M] canonical SMILES.
        outputs: the kind of the labels.
        labels_ML: labels, NaN for missing ones.
        row_R: numbers of the training rows, int64.
        vectors: row numbers → vectors, float32 [R, D]; None: no vectors are stored.
    """
    rows_of: dict[str, list[int]] = {}
    for row in row_R.tolist():
        rows_of.setdefault(smiles[row], []).append(row)
    first_N = np.array([rows[0] for rows in rows_of.values()], np.int64)
    is_named_L = np.array([target in outputs.classes for target in outputs.targets])
    labels_NL = np.stack([_common_label(labels_ML[rows], is_named_L) for rows in rows_of.values()])
    vector_ND = None if vectors is None else vectors(first_N).astype(np.float16)
    return KnownMolecules(smiles=tuple(rows_of), labels_NL=labels_NL, vector_ND=vector_ND)


def write_known(folder: Path, targets: Sequence[str], known: KnownMolecules) -> DomainRule:
    """Write ``domain.parquet``, and return where the domain ends.

    Columns: ``smiles``, "label TARGET" for each target (float64), and ``vector`` (float16 [D]) if there are vectors.
    """
    columns: dict[str, pa.Array] = {"smiles": pa.array(known.smiles, pa.string())}
    columns |= {f"{_LABEL}{t}": pa.array(known.labels_NL[:, at], from_pandas=True) for at, t in enumerate(targets)}
    if known.vector_ND is not None:
        flat = pa.array(known.vector_ND.reshape(-1))
        columns[_VECTOR] = pa.FixedSizeListArray.from_arrays(flat, known.vector_ND.shape[1])
    path = folder / DOMAIN_NAME
    commit_file(path, lambda temporary: pq.write_table(pa.table(columns), temporary))
    own_R = judged_places(len(known.smiles), len(known.smiles), MOST_JUDGED)
    one = DomainRule(sha256=hash_file(path), fingerprint=None)
    found = neighbours(
        known,
        one,
        [known.smiles[at] for at in own_R.tolist()],
        None if known.vector_ND is None else known.vector_ND[own_R],
        own_R,
    )
    vector_R = found.vector_similarity_R
    return replace(
        one,
        fingerprint=domain_threshold(found.similarity_R),
        vector=None if vector_R is None else domain_threshold(vector_R),
    )


def read_known(folder: Path, targets: Sequence[str], rule: DomainRule) -> KnownMolecules:
    """Read the file that ``write_known`` wrote.

    Raises:
        CheckpointError: the hash of the file differs from that in ``finetuned.json``.
    """
    path = folder / DOMAIN_NAME
    check_kept(path, rule.sha256)
    table = pq.read_table(path)
    labels = [table[f"{_LABEL}{target}"].to_numpy(zero_copy_only=False).astype(np.float64) for target in targets]
    vector_ND = None
    if _VECTOR in table.column_names:
        flat = table[_VECTOR].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        vector_ND = flat.reshape(len(table), -1)
    return KnownMolecules(smiles=tuple(table["smiles"].to_pylist()), labels_NL=np.stack(labels, 1), vector_ND=vector_ND)


def neighbours(
    known: KnownMolecules,
    rule: DomainRule,
    smiles: Sequence[str],
    vector_RD: npt.NDArray[np.floating] | None,
    own_R: Int64 | None = None,
) -> Neighbours:
    """Compare rows with the training molecules.

    Args:
        known: training molecules.
        rule: where the domain ends.
        smiles: [R] canonical SMILES.
        vector_RD: vectors of the rows; None: only fingerprints are compared.
        own_R: index of the training molecule with which a row is not compared, int64; None: all are compared.
    """
    is_long = len(smiles) * len(known.smiles) > _SHOWN_FROM
    every = track(known.smiles, len(known.smiles), "fingerprints of training molecules") if is_long else known.smiles
    known_N, asked_R = fingerprints(every), fingerprints(smiles)
    rows = track(asked_R, len(asked_R), "nearest training molecules") if is_long else asked_R
    place_R, similarity_R = nearest_by_fingerprint(rows, known_N, own_R)
    vector_similarity_R = None
    if vector_RD is not None and known.vector_ND is not None:
        vector_similarity_R = nearest_by_vector(vector_RD, known.vector_ND, own_R)
    similarities = [(similarity_R, rule.fingerprint)]
    similarities += [] if vector_similarity_R is None else [(vector_similarity_R, rule.vector)]
    label_RL = np.where((place_R >= 0)[:, None], known.labels_NL[place_R], np.nan)
    return Neighbours(
        smiles=tuple(known.smiles[place] if place >= 0 else None for place in place_R.tolist()),
        label_RL=label_RL,
        similarity_R=similarity_R,
        vector_similarity_R=vector_similarity_R,
        in_domain_R=in_domain([one for one, _ in similarities], [threshold for _, threshold in similarities]),
    )


def _common_label(values_RL: Float64, is_named_L: npt.NDArray[np.bool_]) -> Float64:
    """Return the mean label of each target; NaN without labels, or if named classes differ, which have no mean."""
    there_RL = ~np.isnan(values_RL)
    count_L = there_RL.sum(0)
    mean_L: Float64 = np.where(count_L > 0, np.where(there_RL, values_RL, 0.0).sum(0) / np.maximum(count_L, 1), np.nan)
    differ_L = (there_RL & (values_RL != mean_L)).any(0)
    mean_L[differ_L & is_named_L] = np.nan
    return mean_L
