"""Relations of atom pairs, as inputs and targets: path length and the bonds along a shortest path. NumPy only.

Source: MoleBlend (arXiv 2307.06235) and its public code. Everything is vectorised over the batch, without RDKit.
Shapes: B molecules, A atoms (padded), S = 5 hops.
"""

import numpy as np
import numpy.typing as npt

from unimol_scale.data import vocabulary as vocab
from unimol_scale.store.schema import BOND_VOCABULARIES

Bool = npt.NDArray[np.bool_]
UInt8 = npt.NDArray[np.uint8]
Int8 = npt.NDArray[np.int8]
Int16 = npt.NDArray[np.int16]

NO_CLASS = -1

# Each of the four bond types has classes. A bond of any other kind (dative, zero order, …) has no class, and its hop is
# not predicted. Same side (cis) and opposite side (trans) are one class each, whatever names the stereo uses. A double
# bond that may be either counts as one without stereo.
_TYPE_CLASS = {"SINGLE": 0, "DOUBLE": 1, "TRIPLE": 2, "AROMATIC": 3}
_STEREO_CLASS = {"NONE": 0, "ANY": 0, "Z": 1, "CIS": 1, "E": 2, "TRANS": 2}


def _bond_classes() -> Int8:
    """Return the table [6, 7, 3] that maps stored codes plus one (0: no bond) to the 24 classes."""
    types, stereos, conjugated = BOND_VOCABULARIES.values()
    table = np.full((len(types) + 1, len(stereos) + 1, len(conjugated) + 1), NO_CLASS, dtype=np.int8)
    for i, kind in enumerate(types):
        for j, stereo in enumerate(stereos):
            for k in range(len(conjugated)):
                if kind in _TYPE_CLASS:
                    table[i + 1, j + 1, k + 1] = (_TYPE_CLASS[kind] * 3 + _STEREO_CLASS[stereo]) * 2 + k
    return table


BOND_CLASSES = _bond_classes()
assert BOND_CLASSES.max() + 1 == vocab.NUM_EDGE_CLASSES
# Kind of bond, from 1 → its three features as in a batch: stored codes plus one. Kind 0 means no bond.
KIND_FEATURES = np.array(
    [[0, 0, 0], *(np.indices([len(words) for words in BOND_VOCABULARIES.values()]).reshape(3, -1).T + 1)],
    dtype=np.uint8,
)
assert len(KIND_FEATURES) == vocab.NUM_BOND_KINDS
# Kind of bond → its class as a target; kind 0 has none.
KIND_CLASSES: Int8 = np.array([NO_CLASS, *(BOND_CLASSES[tuple(kind)] for kind in KIND_FEATURES[1:])], dtype=np.int8)
# Larger than any list of bond kinds encoded as a number.
_NO_WAY = np.int32(2**31 - 1)
assert vocab.NUM_BOND_KINDS**vocab.NUM_HOPS < _NO_WAY


def path_classes(path_BAA: Int16, valid_BA: Bool) -> Int8:
    """Return the class of each pair's path, int8 [B, A, A]: lengths 1 to 10 have classes 0 to 9, all longer ones 10.

    The diagonal, pairs without a path and padding have ``NO_CLASS``. (The paper's last class ends at 19 bonds; here it
    is unbounded, so that long molecules are not left out.)
    """
    class_BAA = np.minimum(path_BAA, vocab.NUM_PATH_CLASSES).astype(np.int8) - np.int8(1)
    class_BAA[(path_BAA == vocab.PATH_UNREACHABLE) | ~different_atoms(valid_BA)] = NO_CLASS
    return class_BAA


def edge_classes(bond_features_BAA3: UInt8, path_BAA: Int16) -> Int8:
    """Return the classes of the first five bonds along a path from i to j, int8 [B, A, A, S].

    Of all shortest paths, the one is used that goes, at every atom, to the neighbour of lowest index closer to j.
    Hops beyond the end, pairs without a path, the diagonal and padding have ``NO_CLASS``.
    """
    B, A, _ = path_BAA.shape
    next_BAA, first_BAA = _first_hops(bond_features_BAA3, path_BAA)
    # At j the path stays in place, on a bond without a class, so hops beyond the end need no mask.
    place_BAA = np.arange(B * A * A).reshape(B, A, A)
    start_BAA = place_BAA - np.arange(A)[:, None] * A  # (b, 0, j): where the rows of molecule b begin
    step = (start_BAA + next_BAA * np.intp(A)).ravel()
    first = first_BAA.ravel()
    classes_SR = np.empty((vocab.NUM_HOPS, first.size), dtype=np.int8)
    place = place_BAA.ravel()
    for hop in range(vocab.NUM_HOPS):
        first.take(place, out=classes_SR[hop])
        if hop + 1 < vocab.NUM_HOPS:
            place = step.take(place)
    return classes_SR.T.reshape(B, A, A, vocab.NUM_HOPS)


def bond_kinds(bond_features_BAA3: UInt8) -> UInt8:
    """Return the kind of each pair's bond, uint8 [B, A, A], a row index of ``KIND_FEATURES``; 0 if there is no bond."""
    _, num_stereos, num_conjugated = (len(words) for words in BOND_VOCABULARIES.values())
    type_BAA, stereo_BAA, conjugated_BAA = np.moveaxis(bond_features_BAA3.astype(np.int16), -1, 0)
    kind_BAA = ((type_BAA - 1) * num_stereos + stereo_BAA - 1) * num_conjugated + conjugated_BAA
    return np.where(type_BAA > 0, kind_BAA, 0).astype(np.uint8)


def path_bonds(bond_features_BAA3: UInt8, path_BAA: Int16) -> UInt8:
    """Return the kinds of the first five bonds along a path from i to j, uint8 [B, A, A, S]; see ``bond_kinds``.

    Of all shortest paths, the one is used whose kinds, read from i, come first in numerical order. Paths with the same
    kinds need not be distinguished, so the result does not depend on the order of the atoms. Hops beyond the end, pairs
    without a path, the diagonal and padding have kind 0.
    """
    B, A, _ = path_BAA.shape
    kind_BAA = bond_kinds(bond_features_BAA3)
    b_E, i_E, k_E = kind_BAA.nonzero()  # both directions, ordered by molecule, atom, neighbour
    kind_E1 = kind_BAA[b_E, i_E, k_E, None].astype(np.int32)
    row_E, next_E = b_E * A + i_E, b_E * A + k_E
    path_RA = path_BAA.reshape(B * A, A)
    astray_EA = path_RA[next_E] != path_RA[row_E] - 1
    first_E = np.flatnonzero(np.diff(row_E, prepend=-1))  # first bond of each atom
    # The kinds along a path are the digits of a number, with the first bond leading; the smallest number wins.
    digits_RA = np.zeros((B * A, A), dtype=np.int32)
    for hop in range(vocab.NUM_HOPS if len(row_E) else 0):
        way_EA = kind_E1 * np.int32(vocab.NUM_BOND_KINDS**hop) + digits_RA[next_E]
        way_EA[astray_EA] = _NO_WAY
        best_eA = np.minimum.reduceat(way_EA, first_E, axis=0)
        digits_RA[row_E[first_E]] = np.where(best_eA == _NO_WAY, 0, best_eA)
    kind_SRA = np.empty((vocab.NUM_HOPS, B * A, A), dtype=np.uint8)
    for hop in reversed(range(vocab.NUM_HOPS)):
        digits_RA, kind_SRA[hop] = np.divmod(digits_RA, np.int32(vocab.NUM_BOND_KINDS))
    return np.ascontiguousarray(np.moveaxis(kind_SRA, 0, -1)).reshape(B, A, A, vocab.NUM_HOPS)


def _first_hops(bond_features_BAA3: UInt8, path_BAA: Int16) -> tuple[Int16, Int8]:
    """Return the next atom from i towards j (i if none), int16 [B, A, A], and the class of that bond, int8."""
    B, A, _ = path_BAA.shape
    b_E, i_E, k_E = bond_features_BAA3[..., 0].nonzero()  # both directions, ordered by molecule, atom, neighbour
    class_E = BOND_CLASSES[tuple(np.moveaxis(bond_features_BAA3[b_E, i_E, k_E], -1, 0))]
    row_E = b_E * A + i_E
    # The n-th neighbour of every atom that has that many, from last to first, so that the lowest index is written last.
    number_E = np.arange(len(row_E)) - np.searchsorted(row_E, row_E)
    path_RA = path_BAA.reshape(B * A, A)
    next_RA = np.broadcast_to(np.arange(A, dtype=np.int16)[:, None], (B, A, A)).reshape(B * A, A).copy()
    first_RA = np.full((B * A, A), NO_CLASS, dtype=np.int8)
    for number in range(int(number_E.max(initial=-1)), -1, -1):
        at_E = number_E == number
        row_e = row_E[at_E]
        closer_eA = path_RA[b_E[at_E] * A + k_E[at_E]] == path_RA[row_e] - 1
        next_RA[row_e] = np.where(closer_eA, k_E[at_E, None].astype(np.int16), next_RA[row_e])
        first_RA[row_e] = np.where(closer_eA, class_E[at_E, None], first_RA[row_e])
    return next_RA.reshape(B, A, A), first_RA.reshape(B, A, A)


def different_atoms(valid_BA: Bool) -> Bool:
    """Return where there are two different real atoms, bool [B, A, A]."""
    pairs: Bool = valid_BA[:, :, None] & valid_BA[:, None, :] & ~np.eye(valid_BA.shape[1], dtype=bool)
    return pairs
