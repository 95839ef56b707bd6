"""Reads and writes models on disk, in the released format and our own, and verifies them against reference outputs."""
