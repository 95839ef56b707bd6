"""Pretraining objectives: corrupt a batch, predict what was hidden, and score it. One file per objective."""
