"""Makes a pretrained model ready for others: its weights, its card, and its way to the hub."""
