"""Models on disk: the released format and our own, in and out, and proof that a file computes what it should."""
