"""The processes of a run, and the model that DeepSpeed shards over them."""
