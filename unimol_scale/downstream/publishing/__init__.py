"""Packages a pretrained model with its model card, and uploads it to the hub."""
