"""The trainer: steps, time, checkpoints, logs and ranks. Objectives and model define what a step computes."""
