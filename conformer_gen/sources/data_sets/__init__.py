"""Readers of data sets in the layout that their authors publish: ZINC20, PCQM4Mv2, QM9 and Uni-Mol."""
