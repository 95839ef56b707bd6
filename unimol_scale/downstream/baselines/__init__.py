"""What needs no pretraining: fingerprints and descriptors with forests and boosting, and the mean of the labels."""
