"""Baselines without pretraining: forests and boosting on fingerprints and descriptors, and the mean of the labels."""
