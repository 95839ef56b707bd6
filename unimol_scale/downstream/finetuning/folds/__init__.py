"""The files and messages of a cross-validation, apart from its models."""
