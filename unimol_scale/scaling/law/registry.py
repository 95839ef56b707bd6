"""The list of laws: name → where its class is, and what a class must be to be one. Imports NumPy when one is made."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from unimol_scale.common.plugins import Registry, accepts
from unimol_scale.errors import ConfigError

if TYPE_CHECKING:
    from unimol_scale.scaling.law.laws import Law, Variable

COLUMNS = ("N", "D", "C", "M", "S", "MS")
_BASE = "unimol_scale.scaling.law.laws"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LawEntry:
    """One functional form.

    Attributes:
        name: that the user gives.
        one_variable: whether it is a law in one variable, which is then to be chosen.
        make: (the variable of a law in one) → the law; other laws ignore it.
    """

    name: str
    one_variable: bool
    make: "Callable[[Variable], Law]"


def _adopt(found: Any, name: str) -> LawEntry:  # noqa: ANN401
    from unimol_scale.scaling.law.laws import Law

    if not isinstance(found, type) or not issubclass(found, Law):
        raise ConfigError(f"it must be a class derived from {_BASE}.Law, not {found!r}")
    missing = sorted(found.__abstractmethods__) + [key for key in ("name", "source") if not hasattr(found, key)]
    if missing:
        raise ConfigError(f"it is derived from {_BASE}.Law and lacks {', '.join(missing)}")
    if callable(getattr(found, "terms", None)) or callable(getattr(found, "formula", None)):
        raise ConfigError("its formula and terms must be properties: write @property above them")
    kind: Callable[..., Law] = found
    one_variable = "variable" in {field.name for field in dataclasses.fields(found)}

    if not accepts(found, *(["N"] if one_variable else [])):
        raise ConfigError("it is made without arguments, or with variable alone, and has others without a default")

    def make(variable: "Variable") -> Law:
        return kind(variable=variable) if one_variable else kind()

    _check(make("N"))
    return LawEntry(name=name, one_variable=one_variable, make=make)


def _check(law: "Law") -> None:
    """Find out whether the solver can fit a law: whether its terms are what ``Law`` says they are.

    Raises:
        ConfigError: they are not.
    """
    from unimol_scale.scaling.law.laws import Law, Term

    if type(law).predict is not Law.predict:
        raise ConfigError("it has a predict of its own, which the fit would not know: its terms alone are the law")
    terms = law.terms
    if not isinstance(terms, (tuple, list)) or not terms or not all(isinstance(term, Term) for term in terms):
        raise ConfigError(f"its terms must be a tuple of {_BASE}.Term, not {terms!r}")
    for term in terms:
        if (term.variable is None) != (term.exponent is None) or term.sign not in (-1, 1):
            raise ConfigError(f"{term} must have both a variable and an exponent or neither, and a sign of 1 or -1")
        if term.variable is not None and term.variable not in COLUMNS:
            raise ConfigError(f"{term} is in {term.variable!r}; the columns of runs are {', '.join(COLUMNS)}")
    names = law.parameters
    if len(set(names)) < len(names) or sum(term.variable is None for term in terms) > 1:
        raise ConfigError(f"every parameter needs its own name, and one term at most is constant; it has {names}")
    if not law.variables:
        raise ConfigError("none of its terms has a variable, so that it says the same of every run")
    fading = [term for term in terms if term.fades is not None]
    if len(fading) > 1 or any(term.variable != "D" for term in fading):
        raise ConfigError(f"fades belongs to one term at most, which is in D; it has {fading}")
    if law.outer is not None and law.outer not in [term.exponent for term in terms]:
        raise ConfigError(f"outer must be the name of one of its exponents, not {law.outer!r}")


LAWS = Registry(
    "law",
    {
        "chinchilla": f"{_BASE}:Chinchilla",
        "kaplan": f"{_BASE}:Kaplan",
        "power": f"{_BASE}:Power",
        "repeated": f"{_BASE}:Repeated",
        "saturating": f"{_BASE}:Saturating",
        "unimol2": f"{_BASE}:UniMol2",
    },
    _adopt,
)
