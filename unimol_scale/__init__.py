"""unimol-scale: large-scale molecular pretraining, from conformer store to scaling law."""
