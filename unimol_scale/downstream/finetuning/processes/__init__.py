"""Fits several models of a fine-tuning at the same time on a CPU, each in a process of its own."""
