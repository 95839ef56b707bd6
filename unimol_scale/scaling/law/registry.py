"""The registry of laws: name → class, with checks of users' own laws. Imports NumPy when a law is created."""

import dataclasses
import re
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
        name: name used by the user.
        one_variable: whether it is a law in one variable, which then has to be chosen.
        make: (variable of a one-variable law) → the law; other laws ignore the variable.
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
        raise ConfigError(f"it is derived from {_BASE}.Law but lacks {', '.join(missing)}")
    if callable(getattr(found, "terms", None)) or callable(getattr(found, "formula", None)):
        raise ConfigError("its formula and terms must be properties: write @property above them")
    kind: Callable[..., Law] = found
    one_variable = "variable" in {field.name for field in dataclasses.fields(found)}

    if not accepts(found, *(["N"] if one_variable else [])):
        raise ConfigError("it must take no arguments, or only variable, but has others without a default")

    def make(variable: "Variable") -> Law:
        return kind(variable=variable) if one_variable else kind()

    _check(make("N"))
    return LawEntry(name=name, one_variable=one_variable, make=make)


def _check(law: "Law") -> None:
    """Check that the solver can fit a law: that its terms are as ``Law`` requires.

    Raises:
        ConfigError: they are not.
    """
    from unimol_scale.scaling.law.laws import Law, Term

    if type(law).predict is not Law.predict:
        raise ConfigError("it must not override predict: the fit uses only its terms")
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
        raise ConfigError(f"every parameter needs its own name, and at most one term may be constant; it has {names}")
    if not law.variables:
        raise ConfigError("none of its terms has a variable, so it would predict the same for every run")
    fading = [term for term in terms if term.fades is not None]
    if len(fading) > 1 or any(term.variable != "D" for term in fading):
        raise ConfigError(f"fades may be set on at most one term, which must be in D; it has {fading}")
    taken = {name for term in terms for name in (term.coefficient, term.fades)}
    if law.outer is not None and (law.outer in taken or not re.search(rf"\b{re.escape(law.outer)}\b", law.formula)):
        raise ConfigError(
            f"outer must be one of its exponents, or have a name of its own that its formula shows, not {law.outer!r}"
        )


LAWS = Registry(
    "law",
    {
        "chinchilla": f"{_BASE}:Chinchilla",
        "droppo": f"{_BASE}:Droppo",
        "kaplan": f"{_BASE}:Kaplan",
        "power": f"{_BASE}:Power",
        "repeated": f"{_BASE}:Repeated",
        "saturating": f"{_BASE}:Saturating",
        "unimol2": f"{_BASE}:UniMol2",
    },
    _adopt,
)
