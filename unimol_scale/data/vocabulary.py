"""The integers that index the embeddings: every offset of Uni-Mol2's input encoding in one place. Imports no torch.

Source: the public Uni-Mol2 reference, whose released weights depend on these numbers. A raw feature code v (in the
store's order, that of the Open Graph Benchmark) of atom feature k becomes v + 1 + 16k + 2; hidden becomes 1, padding 0.
"""

# Tokens: the atomic number itself, between the codes for padding and mask.
TOKEN_PADDING = 0
TOKEN_MASK = 127
NUM_TOKENS = 128

HIDDEN = 1
# Replaces a raw atom feature or degree that is hidden for this atom. Stores never contain it.
RAW_HIDDEN = 255

NUM_ATOM_FEATURES = 8
ATOM_FEATURE_STRIDE = 16
ATOM_FEATURE_OFFSET = 3
NUM_ATOM_CODES = 512

DEGREE_OFFSET = 2
NUM_DEGREE_CODES = 128

NUM_BOND_FEATURES = 3
BOND_FEATURE_STRIDE = 16
BOND_FEATURE_OFFSET = 4
NO_BOND = 2
NUM_BOND_CODES = 64
# Kinds of bonds: each combination of the three features has a number; 0 means that there is no bond.
NUM_BOND_KINDS = 61

PATH_OFFSET = 1
PATH_UNREACHABLE = 509
PATH_HIDDEN = 511
NUM_PATH_CODES = 512
MAX_PATH = PATH_UNREACHABLE - 1

# The affine map of distances for pair (i, j) is selected by one code for the first atom and one for the second.
PAIR_TYPE_FIRST_OFFSET = 1
PAIR_TYPE_SECOND_OFFSET = 129
NUM_PAIR_TYPES = 512

# Targets for pairs (MoleBlend): path lengths 1 to 10 and longer; for each of the first hops along the path, the bond's
# type (4), stereo (3) and conjugation (2). The heads read the outer product of two maps of this width. The input may
# contain the bonds of as many hops.
NUM_PATH_CLASSES = 11
NUM_HOPS = 5
NUM_EDGE_CLASSES = 24
RELATION_HIDDEN = 32
