"""The trainer: time, checkpoints, logs and ranks. What is computed in a step belongs to objectives and model."""
