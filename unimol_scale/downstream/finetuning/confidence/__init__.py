"""How far predictions can be trusted: what a fine-tuning measures and stores, and how its report begins."""
