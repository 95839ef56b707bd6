import numpy as np
import pytest

from unimol_scale.errors import ConfigError, RunError
from unimol_scale.scaling.law.laws import Chinchilla, Droppo, Kaplan, Power, Saturating, UniMol2
from unimol_scale.scaling.law.registry import LAWS


def test_the_published_unimol2_law_gives_the_papers_two_predictions() -> None:
    steps = np.array([810_000.0, 810_000.0])
    millions = np.array([570.233696, 1129.209696])
    law = UniMol2()
    predicted = law.predict(law.published, {"M": millions, "S": steps, "MS": millions * steps})
    # The paper prints its exponents to three decimals, which leaves 0.7 % of play at this number of steps.
    np.testing.assert_allclose(predicted, [0.088, 0.0871], rtol=0.007)


def test_chinchilla_adds_floor_model_and_data_terms() -> None:
    parameters = {"E": 1.5, "A": 100.0, "alpha": 0.5, "B": 1000.0, "beta": 1.0}
    predicted = Chinchilla().predict(parameters, {"N": np.array([1e4, 1e6]), "D": np.array([1e3, 1e4])})
    np.testing.assert_allclose(predicted, [1.5 + 1.0 + 1.0, 1.5 + 0.1 + 0.1])


def test_kaplans_law_joins_its_two_limits() -> None:
    p = {"N_c": 3e6, "alpha_N": 0.2, "D_c": 2e5, "alpha_D": 0.3}
    n, d = np.array([1e5, 1e7, 1e7]), np.array([1e6, 1e6, 1e4])
    by_the_paper = ((p["N_c"] / n) ** (p["alpha_N"] / p["alpha_D"]) + p["D_c"] / d) ** p["alpha_D"]
    np.testing.assert_allclose(Kaplan().predict(p, {"N": n, "D": d}), by_the_paper, rtol=1e-12)
    # Infinite data, then an infinite model; and no overflow where 1 / alpha_D is large.
    np.testing.assert_allclose(Kaplan().predict(p, {"N": n, "D": np.full(3, 1e30)}), (p["N_c"] / n) ** 0.2, rtol=1e-6)
    np.testing.assert_allclose(Kaplan().predict(p, {"N": np.full(3, 1e60), "D": d}), (p["D_c"] / d) ** 0.3, rtol=1e-6)
    steep = {**p, "alpha_D": 0.01}
    assert np.isfinite(Kaplan().predict(steep, {"N": np.array([1e-300]), "D": np.array([1e300])})).all()


def test_droppos_law_lies_between_chinchillas_and_kaplans() -> None:
    columns = {"N": np.array([1e5, 1e7, 1e7]), "D": np.array([1e6, 1e6, 1e4])}
    powers = {"A": 20.0, "alpha": 0.3, "B": 8.0, "beta": 0.25}
    added = Chinchilla().predict({"E": 0.2, **powers}, columns)
    np.testing.assert_allclose(Droppo().predict({"E": 0.2, **powers, "p": 1.0}, columns), added, rtol=1e-12)
    limits = {"N_c": 20.0 ** (1 / 0.3), "alpha_N": 0.3, "D_c": 8.0 ** (1 / 0.25), "alpha_D": 0.25}
    joined = Kaplan().predict(limits, columns)
    np.testing.assert_allclose(Droppo().predict({"E": 0.0, **powers, "p": 0.25}, columns), joined, rtol=1e-12)
    alone = np.maximum(20.0 / columns["N"] ** 0.3, 8.0 / columns["D"] ** 0.25)
    np.testing.assert_allclose(Droppo().predict({"E": 0.0, **powers, "p": 1e-3}, columns), alone, rtol=1e-3)


def test_every_law_is_made_by_its_name() -> None:
    assert [entry.make("N").name for entry in LAWS.values()] == list(LAWS)


def test_one_variable_laws_read_their_own_column() -> None:
    assert Power("C").variables == ("C",)
    assert Saturating("D").formula == "L = E + A/D^alpha"
    np.testing.assert_allclose(Power("D").predict({"A": 8.0, "alpha": 1.0}, {"D": np.array([4.0])}), [2.0])


def test_a_column_that_is_not_there_is_named() -> None:
    with pytest.raises(RunError, match="needs the columns C"):
        Power("C").predict({"A": 1.0, "alpha": 1.0}, {"N": np.array([1.0])})


def test_an_unknown_law_gets_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="did you mean 'chinchilla'"):
        LAWS.entry("chinchila")


class Misspelt(Kaplan):
    """A law whose p is the name of nothing in its formula."""

    outer = "alpha_d"


def test_a_misspelt_outer_exponent_is_refused_and_not_taken_for_a_new_parameter() -> None:
    with pytest.raises(ConfigError, match=r"have a name of its own that its formula shows, not 'alpha_d'"):
        LAWS.entry(f"{__name__}:Misspelt")
