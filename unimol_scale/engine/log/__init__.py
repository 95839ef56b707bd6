"""What a run writes during training: metrics, TensorBoard events, pictures, profiles."""
