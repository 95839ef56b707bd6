"""What a cross-validation leaves behind beside its models."""
