"""What a run writes while it trains: metrics, TensorBoard events, pictures, profiles."""
