"""How far the predictions of a fine-tuning can be believed: what it keeps for that, and what its report leads with."""
