"""The public functions and classes of ``import unimol_scale``. May import every package except the command line."""
