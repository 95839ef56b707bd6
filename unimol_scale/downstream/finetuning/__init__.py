"""Fine-tuning and prediction of properties."""
