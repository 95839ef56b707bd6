"""The model of a fine-tuning: backbone, head, training and files."""
