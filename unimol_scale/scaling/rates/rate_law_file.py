"""The file of a rate law, law.json: its content, and how a ladder reads it. Imports no torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unimol_scale.common.text.json_files import NotJsonError, read_json
from unimol_scale.errors import ConfigError
from unimol_scale.scaling.law.points import PARAMETER_GROUPS
from unimol_scale.scaling.rates.rate_law import EXPONENTS, RateAnalysis, RateLaw

KIND = "learning-rate"
SCHEMA_VERSION = 1
SCHEMA: dict[str, str] = {
    "schema_version": "version of this file",
    "schema": "this table: key → meaning",
    "kind": f"{KIND}: a law of the best learning rate, not of the loss",
    "formula": "the law; logarithms are natural",
    "coefficients": "a, and b of N, c of D, d of batch if they varied",
    "intervals": "intervals of the coefficients: name → [low, high]; null if there are too few sweeps",
    "confidence": "level of the intervals",
    "ranges": "smallest and largest N, D and batch of the sweeps with a minimum",
    "parameters_counted": "which parameters N counts",
    "left_out_error": "mean |law / best rate − 1| over sweeps left out one at a time; null if there are too few",
    "sweeps": "every sweep: N, D, batch, size, its runs (name, rate, loss, used by the parabola), best_rate and loss "
    "of its minimum, standard_error of log best_rate, by_law, obstacle to a minimum",
    "checklist": "how the law was made: answers to the checklist of (Mis)Fitting (arXiv 2502.18969)",
    "warnings": "warnings that every reader must see",
    "left_out": "runs that were not used, and why",
}


def rates_to_json(analysis: RateAnalysis, checklist: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of law.json: the keys of ``SCHEMA``."""
    law = analysis.law
    return {
        "schema_version": SCHEMA_VERSION,
        "schema": SCHEMA,
        "kind": KIND,
        "formula": law.formula,
        "coefficients": dict(law.coefficients),
        "intervals": None if law.intervals is None else {name: list(ends) for name, ends in law.intervals.items()},
        "confidence": analysis.config.confidence,
        "ranges": {name: list(ends) for name, ends in law.ranges.items()},
        "parameters_counted": law.parameters_counted,
        "left_out_error": analysis.left_out_error,
        "sweeps": [
            {
                "N": one.sweep.parameters,
                "D": one.sweep.molecules,
                "batch": one.sweep.batch,
                "size": one.sweep.size,
                "runs": [
                    {
                        "name": name,
                        "rate": float(one.sweep.rate[i]),
                        "loss": float(one.sweep.loss[i]),
                        "used": bool(len(one.used) and one.used[i]),
                    }
                    for i, name in enumerate(one.sweep.names)
                ],
                "best_rate": one.rate,
                "loss": one.loss,
                "standard_error": one.standard_error if one.standard_error == one.standard_error else None,
                "by_law": law.rate(one.sweep.parameters, one.sweep.molecules, one.sweep.batch),
                "obstacle": one.obstacle,
            }
            for one in analysis.minima
        ],
        "checklist": dict(checklist),
        "warnings": list(analysis.warnings),
        "left_out": list(analysis.notes),
    }


def read_rate_law(path: Path) -> RateLaw:
    """Return the law in a file.

    Raises:
        ConfigError: the file is missing, or contains no law of the learning rate.
    """
    advice = "`unimol-scale fit-scaling-law RUNS --rates` writes one"
    try:
        tree = read_json(path)
    except OSError as error:
        raise ConfigError(f"rate_law: {path} cannot be read: {error.strerror}; {advice}") from error
    except NotJsonError as error:
        raise ConfigError(f"rate_law: {path} {error}; {advice}") from error
    if tree.get("kind") != KIND:
        raise ConfigError(f"rate_law: {path} is not a law of the learning rate; {advice}")
    if tree.get("schema_version") != SCHEMA_VERSION:
        raise ConfigError(
            f"rate_law: {path} is of version {tree.get('schema_version')}, not {SCHEMA_VERSION}; {advice}"
        )
    try:
        coefficients = {str(name): float(value) for name, value in tree["coefficients"].items()}
        ranges = {str(name): (float(low), float(high)) for name, (low, high) in tree["ranges"].items()}
        counted = tree["parameters_counted"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"rate_law: {path} is damaged ({error!r}); {advice}") from error
    if (
        "a" not in coefficients
        or not set(coefficients) <= {"a", *EXPONENTS.values()}
        or counted not in PARAMETER_GROUPS
    ):
        raise ConfigError(f"rate_law: {path} has the coefficients {', '.join(coefficients)}; {advice}")
    return RateLaw(coefficients=coefficients, intervals=None, ranges=ranges, parameters_counted=counted)
