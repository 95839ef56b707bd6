"""What ``import unimol_scale`` offers: one file for each kind of work, above every other room but the command line."""
