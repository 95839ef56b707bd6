"""Units of what frames carry: which quantities there are, the store's unit of each, and how others are converted."""

import functools

from unimol_scale.common.text.physical_units import ENERGIES, LENGTHS, spelt
from unimol_scale.errors import ConfigError, nearest

# Quantity → its unit in a store. A gradient is that of the energy: minus the forces.
STORE_UNITS = {
    "positions": "Å",
    "energy": "kcal/mol",
    "forces": "kcal/mol/Å",
    "gradient": "kcal/mol/Å",
    "charges": "e",
}
_CHARGES = {"e": 1.0}


@functools.cache
def to_store(quantity: str, unit: str) -> float:
    """Return by what a quantity in a unit is multiplied to have the store's unit.

    Args:
        quantity: a key of ``STORE_UNITS``.
        unit: such as "eV", or "Ha/bohr" of forces.

    Raises:
        ConfigError: it is not a unit of the quantity.
    """
    store = STORE_UNITS[quantity]
    if quantity in ("forces", "gradient"):
        energy, slash, length = unit.rpartition("/")
        per = spelt(length)
        if slash and spelt(energy) in ENERGIES and per in LENGTHS:
            return _ratio(quantity, energy, "kcal/mol", ENERGIES) / LENGTHS[per]
        raise ConfigError(f"source.frames.units.{quantity} is {unit!r}; write an energy by a length, such as eV/Å")
    return _ratio(quantity, unit, store, {"positions": LENGTHS, "energy": ENERGIES, "charges": _CHARGES}[quantity])


def _ratio(quantity: str, unit: str, store: str, known: dict[str, float]) -> float:
    if spelt(unit) not in known:
        raise ConfigError(f"source.frames.units.{quantity} is {unit!r}; {nearest(unit, known)}")
    return known[spelt(unit)] / known[store]
