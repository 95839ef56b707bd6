"""Conversion of labels between units, so that scores can be reported in a paper's unit. Standard library only."""

from unimol_scale.common.text.physical_units import ENERGIES, LENGTHS, spelt
from unimol_scale.errors import ConfigError, nearest

# Quantity → unit → size of the unit in the first unit of the quantity.
QUANTITIES: dict[str, dict[str, float]] = {
    "energy": ENERGIES,
    "area": {"a0^2": 1.0, "Å^2": 1.0 / LENGTHS["a0"] ** 2},
    "volume": {"a0^3": 1.0, "Å^3": 1.0 / LENGTHS["a0"] ** 3},
    "heat capacity": {"cal/(mol K)": 1.0, "J/(mol K)": 1.0 / 4.184},
}


def conversion_factor(label_unit: str, reported_unit: str) -> float:
    """Return the factor that converts labels to another unit; 1 if both units are equal, even if unknown.

    Args:
        label_unit: unit of the labels, such as "Ha"; powers may be written a0^2 or a0².
        reported_unit: unit to convert to, such as "meV".

    Raises:
        ConfigError: a unit is unknown, or the units measure different quantities.
    """
    label, reported = spelt(label_unit), spelt(reported_unit)
    if label == reported:
        return 1.0
    for quantity, units in QUANTITIES.items():
        if label in units:
            if reported not in units:
                why = f"it is a unit of {quantity}; {nearest(reported, units)}"
                raise ConfigError(f"{label_unit} cannot be converted into {reported_unit!r}: {why}")
            return units[label] / units[reported]
    known = ", ".join(unit for units in QUANTITIES.values() for unit in units)
    raise ConfigError(f"{label_unit!r} cannot be converted into {reported_unit!r}; units that can be are {known}")
