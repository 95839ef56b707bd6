"""Features of the baselines: ECFP counts, and all RDKit descriptors.

Shapes: M molecules, 2,048 counts, F descriptors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from rdkit import Chem, rdBase
from rdkit.Chem import Descriptors, rdFingerprintGenerator
from scipy import sparse
from sklearn.utils.parallel import Parallel, delayed

from unimol_scale.common.machine.threads import given_threads, usable_cores

Float32 = npt.NDArray[np.float32]
FeatureKind = Literal["ecfp", "rdkit"]
Bool = npt.NDArray[np.bool_]

ECFP_RADIUS = 2
ECFP_COUNTS = 2048
NUM_DESCRIPTORS = len(Descriptors.descList)
# Number of molecules that is worth a process of its own: their descriptors take 4 s [measured on ESOL].
_PIECE = 1000


@dataclass(frozen=True, kw_only=True)
class TableFeatures:
    """The features of molecules. They depend only on the molecule, so nothing can leak from test rows.

    Attributes:
        ecfp: folded counts of Morgan environments up to radius 2 (ECFP4; Rogers and Hahn 2010,
            doi:10.1021/ci100050t), uint16 [M, 2048], sparse by rows.
        rdkit: arcsinh of every descriptor in ``Descriptors.descList``, float32 [M, F]. A monotonic change of scale does
            not affect trees, and it brings descriptors that exceed float32, such as Ipc, into range. NaN where RDKit
            returns no finite number, such as partial charges of metals; scikit-learn's trees send NaN to the side that
            fits better.
        readable: bool [M], False if RDKit cannot read the SMILES; such a row has no features.
    """

    ecfp: Any
    rdkit: Float32
    readable: Bool

    def take(self, row_R: npt.NDArray[np.int64]) -> "TableFeatures":
        """Return some rows, in their order."""
        return TableFeatures(ecfp=self.ecfp[row_R], rdkit=self.rdkit[row_R], readable=self.readable[row_R])

    def dense(self, kind: FeatureKind, row_R: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Return one kind of features of some rows, [R, 2048] or [R, F]."""
        dense_RF: npt.NDArray[Any] = self.ecfp[row_R].toarray() if kind == "ecfp" else self.rdkit[row_R]
        return dense_RF


def cores() -> int:
    """Return the number of cores for the baselines: the user's setting, else the cores available to this process."""
    return given_threads() or usable_cores()


def table_features(smiles: Sequence[str]) -> TableFeatures:
    """Return the features of molecules; equal SMILES are computed once.

    Args:
        smiles: [M] SMILES.
    """
    distinct = list(dict.fromkeys(smiles))
    pieces = [distinct[start : start + _PIECE] for start in range(0, len(distinct), _PIECE)]
    workers = min(cores(), len(distinct) // _PIECE)
    done = (
        Parallel(n_jobs=workers)(delayed(_features)(piece) for piece in pieces)
        if workers > 1
        else [_features(piece) for piece in pieces]
    )
    place = {text: at for at, text in enumerate(distinct)}
    everything = TableFeatures(
        ecfp=sparse.vstack([ecfp for ecfp, _, _ in done], format="csr"),
        rdkit=np.concatenate([rdkit for _, rdkit, _ in done]),
        readable=np.concatenate([readable for _, _, readable in done]),
    )
    return everything.take(np.array([place[text] for text in smiles], np.int64))


def _features(smiles: Sequence[str]) -> tuple[Any, Float32, Bool]:
    generator: Any = rdFingerprintGenerator.GetMorganGenerator(radius=ECFP_RADIUS, fpSize=ECFP_COUNTS)  # type: ignore[no-untyped-call]
    ecfp = np.zeros((len(smiles), ECFP_COUNTS), np.uint16)
    rdkit = np.full((len(smiles), NUM_DESCRIPTORS), np.nan)
    readable = np.zeros(len(smiles), bool)
    with rdBase.BlockLogs():
        for row, text in enumerate(smiles):
            molecule = Chem.MolFromSmiles(text)
            if molecule is None or not molecule.GetNumAtoms():
                continue
            readable[row] = True
            ecfp[row] = generator.GetCountFingerprintAsNumPy(molecule)
            rdkit[row] = [_descriptor(function, molecule) for _, function in Descriptors.descList]
    rdkit[~np.isfinite(rdkit)] = np.nan
    return sparse.csr_matrix(ecfp), np.arcsinh(rdkit).astype(np.float32), readable


def _descriptor(function: Any, molecule: Chem.Mol) -> float:  # noqa: ANN401 - an RDKit function
    try:
        return float(function(molecule))
    except (ValueError, RuntimeError, ZeroDivisionError, OverflowError):  # not defined for this molecule
        return float("nan")
