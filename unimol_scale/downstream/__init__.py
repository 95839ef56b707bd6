"""Uses of a pretrained model: representations, fine-tuning, predictions."""
