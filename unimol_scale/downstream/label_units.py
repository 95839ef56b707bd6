"""Units that labels can be converted between, so that scores are told in the unit of a paper. Standard library only."""

from unimol_scale.common.text.physical_units import ENERGIES, LENGTHS, spelt
from unimol_scale.errors import ConfigError, nearest

# Quantity → unit → its size in the first unit of the quantity.
QUANTITIES: dict[str, dict[str, float]] = {
    "energy": ENERGIES,
    "area": {"a0^2": 1.0, "Å^2": 1.0 / LENGTHS["a0"] ** 2},
    "volume": {"a0^3": 1.0, "Å^3": 1.0 / LENGTHS["a0"] ** 3},
    "heat capacity": {"cal/(mol K)": 1.0, "J/(mol K)": 1.0 / 4.184},
}


def conversion_factor(label_unit: str, reported_unit: str) -> float:
    """Return by what a label is multiplied to have another unit; 1 for the same unit, known or not.

    Args:
        label_unit: of the label, such as "Ha"; powers may be written a0^2 or a0².
        reported_unit: that it shall have, such as "meV".

    Raises:
        ConfigError: a unit is unknown, or they measure different quantities.
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
