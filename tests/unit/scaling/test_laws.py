import numpy as np
import pytest

from unimol_scale.errors import RunError
from unimol_scale.scaling.laws import Chinchilla, Power, Saturating, UniMol2, make_law


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


def test_one_variable_laws_read_their_own_column() -> None:
    assert Power("C").variables == ("C",)
    assert Saturating("D").formula == "L = E + A/D^alpha"
    np.testing.assert_allclose(Power("D").predict({"A": 8.0, "alpha": 1.0}, {"D": np.array([4.0])}), [2.0])


def test_a_column_that_is_not_there_is_named() -> None:
    with pytest.raises(RunError, match="needs the columns C"):
        Power("C").predict({"A": 1.0, "alpha": 1.0}, {"N": np.array([1.0])})


def test_an_unknown_law_gets_the_nearest_name() -> None:
    with pytest.raises(RunError, match="did you mean 'chinchilla'"):
        make_law("chinchila")
