"""The functional forms of scaling laws: formula, source and meaning of every parameter. Imports NumPy and errors only.

Every law here joins power terms T_k = ``coefficient · variable^(sign · exponent)``, one of which may be a constant, as
L = (Σ T_k^(1/p))^p. This is a plain sum with p = 1 except for ``kaplan``, whose p is one of its exponents, and for
``droppo``, whose p is a parameter of its own. Thanks to this shared shape, the solver can find the coefficients exactly
for given exponents. Variables are named columns:

    N   parameters                      M    parameters in millions
    D   molecules seen in training      S    optimiser steps
    C   FLOPs, from the run's own log   MS   M · S
    U   distinct molecules available, of which D are seen, some of them several times
"""

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from unimol_scale.errors import RunError

FloatArray = npt.NDArray[np.float64]
Columns = Mapping[str, FloatArray]
Variable = Literal["N", "D", "C"]


@dataclass(frozen=True, kw_only=True)
class Term:
    """One summand: ``coefficient · variable^(sign · exponent)``, or ``coefficient`` alone when it has no variable.

    Attributes:
        coefficient: name of the multiplier, which is never negative.
        exponent: name of the exponent as in its paper; None for the constant term.
        variable: name of the column; None for the constant term.
        sign: −1 where the paper writes A/N^α, +1 where it writes α·M^β with a negative β.
        scaled: True where the paper writes (N_c/N)^α, with the named coefficient N_c inside the power.
        fades: name of R* for a term in D that uses the effective data D' of ``effective_data`` instead; None for D
            itself. At most one term of a law may have it.
    """

    coefficient: str
    exponent: str | None = None
    variable: str | None = None
    sign: int = -1
    scaled: bool = False
    fades: str | None = None


@dataclass(frozen=True)
class Law(abc.ABC):
    """Base of the laws; a subclass gives the name, the formula, the source and the terms.

    The terms define the law: the fit, its bootstrap, predictions and pictures all follow from them, so a subclass must
    not override ``predict``. A subclass is a frozen dataclass created without arguments, or with one, ``variable``, if
    it is a law in one variable. Use your own with ``unimol-scale fit-scaling-law --law package.module:Class``.

    Attributes:
        name: short name, one word.
        source: where it comes from, for the report.
        outer: name of p: one of the exponents, or a parameter of its own; None for p = 1, a plain sum.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    outer: ClassVar[str | None] = None

    @property
    @abc.abstractmethod
    def formula(self) -> str:
        """The law as one line of text."""

    @property
    @abc.abstractmethod
    def terms(self) -> tuple[Term, ...]:
        """The summands, starting with the constant one if there is one."""

    @property
    def label(self) -> str:
        """Name for people, such as "chinchilla" or "power in N"."""
        return self.name

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the columns whose powers it contains."""
        return tuple(term.variable for term in self.terms if term.variable is not None)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that the law reads: its variables, and U if repeated data count less."""
        return (*self.variables, *(["U"] if self.fades is not None else []))

    @property
    def fades(self) -> str | None:
        """Name of the parameter R* by which repeated data count less; None if they count as new data."""
        return next((term.fades for term in self.terms if term.fades is not None), None)

    @property
    def own_outer(self) -> str | None:
        """Name of p if it is a parameter of its own; None if it is 1 or an exponent."""
        return None if self.outer in [term.exponent for term in self.terms] else self.outer

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters, in the order of the formula."""
        names: list[str] = []
        for term in self.terms:
            names += [name for name in (term.coefficient, term.exponent, term.fades) if name is not None]
        return (*names, self.own_outer) if self.own_outer is not None else tuple(names)

    def predict(self, parameters: Mapping[str, float] | Mapping[str, FloatArray], columns: Columns) -> FloatArray:
        """Evaluate the law.

        Args:
            parameters: name → value, as the formula writes them; arrays broadcast against the columns.
            columns: column name → float [n].

        Returns:
            Predicted loss, float [n].

        Raises:
            RunError: a column that the law needs is missing.
        """
        missing = [name for name in self.columns if name not in columns]
        if missing:
            raise RunError(
                f"the law {self.label} needs the columns {', '.join(missing)}, which these points do not have"
            )
        values = [term_value(term, parameters, columns) for term in self.terms]
        if self.outer is None:
            total: FloatArray = np.zeros(1)
            for value in values:
                total = total + value
            return total
        # In logs, because powers of 1/p under- and overflow if p is small.
        p = np.asarray(parameters[self.outer], dtype=np.float64)
        with np.errstate(divide="ignore"):  # a floor of 0
            logs = [np.log(value) / p for value in values]
        joined: FloatArray = logs[0]
        for log in logs[1:]:
            joined = np.logaddexp(joined, log)
        result: FloatArray = np.exp(p * joined)
        return result


def term_value(term: Term, parameters: Mapping[str, float] | Mapping[str, FloatArray], columns: Columns) -> FloatArray:
    """Return T_k at every point, with the arguments of ``Law.predict``."""
    coefficient: FloatArray = np.asarray(parameters[term.coefficient], dtype=np.float64)
    if term.variable is None or term.exponent is None:
        return coefficient
    power = term.sign * np.asarray(parameters[term.exponent], dtype=np.float64)
    value = columns[term.variable]
    if term.fades is not None:
        value = effective_data(value, columns["U"], np.asarray(parameters[term.fades], dtype=np.float64))
    if term.scaled:
        result: FloatArray = (value / coefficient) ** power
        return result
    return coefficient * value**power


def effective_data(data: FloatArray, distinct: FloatArray, fades: FloatArray) -> FloatArray:
    """Return D' = U + U·R*·(1 − exp(−R/R*)) with R = D/U − 1 repetitions: the new data that repeated data are worth.

    Each repetition is worth less than the one before, and all together are worth at most R* times the distinct data. If
    nothing is repeated (D ≤ U), D' is D.

    Args:
        data: D, float [n].
        distinct: U, the distinct data available, float [n].
        fades: R*, broadcast against them.

    Source:
        Muennighoff et al. 2023 (arXiv 2305.16264), equation 5.
    """
    repetitions = np.maximum(data / distinct - 1.0, 0.0)
    result: FloatArray = np.minimum(data, distinct) - distinct * fades * np.expm1(-repetitions / fades)
    return result


@dataclass(frozen=True)
class Chinchilla(Law):
    """L(N, D) = E + A/N^α + B/D^β, from Hoffmann et al., 2022 (arXiv 2203.15556), equation 2.

    E is the loss below which no model and no amount of data can go; A/N^α is the loss added by a finite model, B/D^β
    that added by finite data. Needs runs that differ in both N and D.
    """

    name: ClassVar[str] = "chinchilla"
    source: ClassVar[str] = "Hoffmann et al. 2022, arXiv 2203.15556, equation 2"

    @property
    def formula(self) -> str:
        """The law as one line of text."""
        return "L = E + A/N^alpha + B/D^beta"

    @property
    def terms(self) -> tuple[Term, ...]:
        """E, then the parameter term, then the data term."""
        return (
            Term(coefficient="E"),
            Term(coefficient="A", exponent="alpha", variable="N"),
            Term(coefficient="B", exponent="beta", variable="D"),
        )


@dataclass(frozen=True)
class Repeated(Law):
    """L(N, D, U) = E + A/N^α + B/D'^β, from Muennighoff et al., 2023 (arXiv 2305.16264), equations 5 and 6.

    D' is what D molecules are worth if only U of them are distinct (``effective_data``); R_star says after how many
    repetitions they are worth little. Without repetitions this is the law of Hoffmann et al. In the paper, parameters
    also lose worth if a model is too large for its distinct data. That needs runs far beyond the optimal size and is
    left out here. Needs runs that differ in N and D, some of which saw their molecules several times.
    """

    name: ClassVar[str] = "repeated"
    source: ClassVar[str] = "Muennighoff et al. 2023, arXiv 2305.16264, equations 5 and 6, with N as it is"

    @property
    def formula(self) -> str:
        """The law as one line of text."""
        return "L = E + A/N^alpha + B/D'^beta, D' = U + U*R_star*(1 - exp(-(D/U - 1)/R_star))"

    @property
    def terms(self) -> tuple[Term, ...]:
        """E, then the parameter term, then the term of the effective data."""
        return (
            Term(coefficient="E"),
            Term(coefficient="A", exponent="alpha", variable="N"),
            Term(coefficient="B", exponent="beta", variable="D", fades="R_star"),
        )


@dataclass(frozen=True)
class Power(Law):
    """L(X) = A/X^α in one variable X, from Kaplan et al., 2020 (arXiv 2001.08361), equations 1.1 to 1.3.

    Attributes:
        variable: the column X: "N", "D" or "C".
    """

    name: ClassVar[str] = "power"
    source: ClassVar[str] = "Kaplan et al. 2020, arXiv 2001.08361, equations 1.1-1.3"
    variable: Variable = "N"

    @property
    def label(self) -> str:
        """Name for people."""
        return f"power in {self.variable}"

    @property
    def formula(self) -> str:
        """The law as one line of text."""
        return f"L = A/{self.variable}^alpha"

    @property
    def terms(self) -> tuple[Term, ...]:
        """The single power."""
        return (Term(coefficient="A", exponent="alpha", variable=self.variable),)


@dataclass(frozen=True)
class Saturating(Law):
    """L(X) = E + A/X^α in one variable X, from Henighan et al., 2020 (arXiv 2010.14701), equation 1.1.

    Attributes:
        variable: the column X: "N", "D" or "C".
    """

    name: ClassVar[str] = "saturating"
    source: ClassVar[str] = "Henighan et al. 2020, arXiv 2010.14701, equation 1.1"
    variable: Variable = "N"

    @property
    def label(self) -> str:
        """Name for people."""
        return f"saturating in {self.variable}"

    @property
    def formula(self) -> str:
        """The law as one line of text."""
        return f"L = E + A/{self.variable}^alpha"

    @property
    def terms(self) -> tuple[Term, ...]:
        """The floor, then the power."""
        return (Term(coefficient="E"), Term(coefficient="A", exponent="alpha", variable=self.variable))


@dataclass(frozen=True)
class Kaplan(Law):
    """L(N, D) = [(N_c/N)^(α_N/α_D) + D_c/D]^α_D, from Kaplan et al., 2020 (arXiv 2001.08361), equation 1.5.

    With infinite data the loss is (N_c/N)^α_N, with an infinite model (D_c/D)^α_D; there is no floor. The two limits
    are not added but joined with p = α_D. Needs runs that differ in both N and D.
    """

    name: ClassVar[str] = "kaplan"
    source: ClassVar[str] = "Kaplan et al. 2020, arXiv 2001.08361, equation 1.5"
    outer: ClassVar[str | None] = "alpha_D"

    @property
    def formula(self) -> str:
        """The law as one line of text."""
        return "L = [(N_c/N)^(alpha_N/alpha_D) + D_c/D]^alpha_D"

    @property
    def terms(self) -> tuple[Term, ...]:
        """The limits of infinite data and of an infinite model."""
        return (
            Term(coefficient="N_c", exponent="alpha_N", variable="N", scaled=True),
            Term(coefficient="D_c", exponent="alpha_D", variable="D", scaled=True),
        )


@dataclass(frozen=True)
class Droppo(Law):
    """L(N, D) = [E^(1/p) + (A/N^α)^(1/p) + (B/D^β)^(1/p)]^p, from Droppo and Elibol, 2021 (arXiv 2106.09488).

    The paper writes (N_C/N)^α_N for A/N^α, (D_C/D)^α_D for B/D^β, L_∞ for E and α for p. The floor, the loss of a
    finite model and that of finite data are the limits of the law; p says how they join. With p = 1 they add, and the
    law is ``chinchilla``; with p = β and no floor it is ``kaplan``; the smaller p, the more the largest of them counts
    alone. Needs runs that differ in both N and D.
    """

    name: ClassVar[str] = "droppo"
    source: ClassVar[str] = "Droppo and Elibol 2021, arXiv 2106.09488, joint law with an irreducible loss"
    outer: ClassVar[str | None] = "p"

    @property
    def formula(self) -> str:
        """The law as one line of text."""
        return "L = [E^(1/p) + (A/N^alpha)^(1/p) + (B/D^beta)^(1/p)]^p"

    @property
    def terms(self) -> tuple[Term, ...]:
        """The terms of ``Chinchilla``: E, then the parameter term, then the data term."""
        return Chinchilla().terms


@dataclass(frozen=True)
class UniMol2(Law):
    """L(M, S, C) = α_m·M^β_m + α_s·S^β_s + α_c·C^β_c with C = M·S, from Uni-Mol2 (arXiv 2406.14969), section 4.

    M is in millions of parameters and S in optimiser steps at one batch size, so "C" is not a number of FLOPs; the
    column is called MS here to keep the two apart. The β are negative.
    """

    name: ClassVar[str] = "unimol2"
    source: ClassVar[str] = "Uni-Mol2, arXiv 2406.14969, scaling law in M, S and C = M*S"
    published: ClassVar[Mapping[str, float]] = {
        "alpha_m": 2.660,
        "beta_m": -1.137,
        "alpha_s": 1.848,
        "beta_s": -0.225,
        "alpha_c": 0.588,
        "beta_c": -1.479,
    }

    @property
    def formula(self) -> str:
        """The law as one line of text."""
        return "L = alpha_m*M^beta_m + alpha_s*S^beta_s + alpha_c*(M*S)^beta_c"

    @property
    def terms(self) -> tuple[Term, ...]:
        """Model, steps, and their product."""
        return tuple(
            Term(coefficient=f"alpha_{key}", exponent=f"beta_{key}", variable=variable, sign=1)
            for key, variable in (("m", "M"), ("s", "S"), ("c", "MS"))
        )
