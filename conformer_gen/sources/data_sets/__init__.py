"""Readers of data sets in the layouts that their authors publish: ZINC20, PCQM4Mv2, QM9 and Uni-Mol."""
