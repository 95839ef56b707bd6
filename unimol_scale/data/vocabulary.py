"""The integers that enter the embeddings: one table for every offset of Uni-Mol2's input encoding. Imports no torch.

Source: the public Uni-Mol2 reference, whose released weights depend on these numbers. A raw feature code v (the
store's, Open Graph Benchmark order) of atom feature k becomes v + 1 + 16k + 2; a hidden feature becomes 1; padding 0.
"""

# Tokens: the atomic number itself, between padding and mask.
TOKEN_PADDING = 0
TOKEN_MASK = 127
NUM_TOKENS = 128

HIDDEN = 1
# In place of a raw atom feature or degree: this one value of this one atom is hidden. No store holds it.
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
# Kinds of bonds: each combination of the three features has a number, and 0 says that there is no bond.
NUM_BOND_KINDS = 61

PATH_OFFSET = 1
PATH_UNREACHABLE = 509
PATH_HIDDEN = 511
NUM_PATH_CODES = 512
MAX_PATH = PATH_UNREACHABLE - 1

# The distance map of pair (i, j) is chosen by one code for the first atom and one for the second.
PAIR_TYPE_FIRST_OFFSET = 1
PAIR_TYPE_SECOND_OFFSET = 129
NUM_PAIR_TYPES = 512

# What is predicted of a pair (MoleBlend): path lengths 1 to 10 and longer; of each of the first hops along the path the
# bond's type (4), stereo (3) and conjugation (2). The heads read the outer product of two maps of this width. A model
# may be shown the bonds of as many hops.
NUM_PATH_CLASSES = 11
NUM_HOPS = 5
NUM_EDGE_CLASSES = 24
RELATION_HIDDEN = 32
