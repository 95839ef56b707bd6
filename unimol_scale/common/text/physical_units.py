"""Units of energy and length, and their conversion factors. Standard library only.

Values: CODATA 2018 (Tiesinga et al. 2021, doi:10.1103/RevModPhys.93.025010).
"""

# Unit → its size in Ha.
ENERGIES = {
    "Ha": 1.0,
    "mHa": 1e-3,
    "eV": 1.0 / 27.211386245988,
    "meV": 1e-3 / 27.211386245988,
    "kcal/mol": 1.0 / 627.5094740631,
    "kJ/mol": 1.0 / 2625.4996394799,
}
# Unit → its size in Å.
LENGTHS = {"Å": 1.0, "a0": 0.529177210903, "nm": 10.0, "pm": 0.01}
_OTHER_SPELLINGS = {
    **{"hartree": "Ha", "Hartree": "Ha"},
    **{"A": "Å", "angstrom": "Å", "Angstrom": "Å", "bohr": "a0", "Bohr": "a0"},
    **{"A^2": "Å^2", "A^3": "Å^3", "bohr^2": "a0^2", "bohr^3": "a0^3"},
}


def spelt(unit: str) -> str:
    """Return a unit in the spelling used here; an unknown unit is returned stripped and otherwise unchanged."""
    unit = unit.replace("²", "^2").replace("³", "^3").replace("\u212b", "Å").strip()  # the Ångström sign of Unicode
    return _OTHER_SPELLINGS.get(unit, unit)
