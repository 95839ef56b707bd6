"""The benchmark of fine-tuning by cross-validation: pretrained, untrained and frozen models, and baselines."""
