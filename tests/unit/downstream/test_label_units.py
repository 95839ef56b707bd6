"""Conversions are those of the textbooks, and units of different quantities are never converted into one another."""

import pytest

from unimol_scale.downstream.label_units import QUANTITIES, conversion_factor
from unimol_scale.errors import ConfigError


@pytest.mark.parametrize(
    ("label", "reported", "factor"),
    [
        ("Ha", "meV", 27211.386),
        ("Ha", "eV", 27.211386),
        ("eV", "meV", 1000.0),
        ("meV", "Ha", 1 / 27211.386),
        ("Ha", "kcal/mol", 627.50947),
        ("kcal/mol", "kJ/mol", 4.184),
        ("eV", "kcal/mol", 23.060548),
        ("a0^2", "Å^2", 0.2800285),
        ("a0²", "A^2", 0.2800285),
        ("a0^3", "Å³", 0.1481847),
        ("cal/(mol K)", "J/(mol K)", 4.184),
        ("D", "D", 1.0),
        ("log10(mol/L)", "log10(mol/L)", 1.0),
    ],
)
def test_a_label_is_multiplied_by_what_the_textbooks_say(label, reported, factor):
    assert conversion_factor(label, reported) == pytest.approx(factor, rel=1e-6)


@pytest.mark.parametrize("units", QUANTITIES.values(), ids=QUANTITIES)
def test_there_and_back_is_the_same(units):
    for one in units:
        for other in units:
            assert conversion_factor(one, other) * conversion_factor(other, one) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize(
    ("label", "reported", "message"),
    [
        ("Ha", "mev", "unit of energy; did you mean 'meV'"),
        ("Ha", "a0^2", "unit of energy"),
        ("D", "meV", "'D' cannot be converted into 'meV'; units that can be are Ha"),
        ("a0^2", "Å^3", "unit of area; did you mean 'Å"),
    ],
)
def test_what_is_no_such_unit_is_refused(label, reported, message):
    with pytest.raises(ConfigError, match=message.replace("^", r"\^")):
        conversion_factor(label, reported)
