"""How far predictions can be believed, in arithmetic on arrays: conformal intervals and sets, the domain of a model."""
