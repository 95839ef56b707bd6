"""What a pretrained model is used for: representations, fine-tuning, predictions."""
