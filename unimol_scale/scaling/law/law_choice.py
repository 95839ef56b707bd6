"""Chooses which points to hold out, and the law for the others. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from unimol_scale.errors import RunError
from unimol_scale.scaling.law.column_checks import loss_causes, unit_causes
from unimol_scale.scaling.law.fit import FitConfig, fit_law, has_repeated, why_not_identifiable
from unimol_scale.scaling.law.laws import Law, Variable
from unimol_scale.scaling.law.points import Points, distinct
from unimol_scale.scaling.law.registry import LAWS, LawEntry

MAX_FOLDS = 12
POOR_ERROR = 0.1
TIE = 1.1  # laws with held-out errors within 10 % of the lowest are compared by AIC


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A law that was considered.

    Attributes:
        law: its form.
        held_out_error: mean |prediction / loss − 1| over sizes that were left out one at a time; None if unknown.
        aicc: AICc of the fit to all points; None if unknown.
        obstacle: why it cannot be used; None if it can.
    """

    law: Law
    held_out_error: float | None = None
    aicc: float | None = None
    obstacle: str | None = None


@dataclass(frozen=True, kw_only=True)
class LawChoice:
    """The chosen law, and the reason.

    Attributes:
        law: the chosen law.
        reason: one sentence.
        candidates: all laws that were considered; a single one if the user named the law.
    """

    law: Law
    reason: str
    candidates: tuple[Candidate, ...]


# Epochs from which the reduced worth of repeated data exceeds the noise of runs: up to four epochs are nearly worth new
# data (Muennighoff et al. 2023, arXiv 2305.16264).
ENOUGH_EPOCHS = 2.0


def hold_out_mask(points: Points, rule: str) -> np.ndarray:
    """Return which points are held out, bool [n].

    Args:
        points: all of them.
        rule: "none"; "largest" for the runs of the largest size; "corner" for those of the largest size on the most
            data that it has seen; a whole number for that many of the largest sizes; a fraction below 1 for that
            fraction of the sizes, rounded up.

    Raises:
        RunError: the rule is not one of these, or holds out everything.
    """
    sizes = distinct(points.columns["N"])
    num_sizes = int(sizes.max()) + 1
    if rule == "none":
        return np.zeros(len(points), dtype=bool)
    if rule in ("largest", "corner"):
        count = 1
    else:
        try:
            number = float(rule)
        except ValueError:
            number = -1.0
        if 0 < number < 1:
            count = int(np.ceil(number * num_sizes))
        elif number >= 1 and number == int(number):
            count = int(number)
        else:
            raise RunError(
                f"--hold-out {rule}: give largest, corner, none, a number of sizes, or a fraction of them below 1"
            )
    mask: np.ndarray = sizes >= num_sizes - count
    if rule == "corner":
        amounts = distinct(points.columns["D"])
        mask &= amounts == amounts[mask].max()
    if mask.all():
        raise RunError(
            f"--hold-out {rule} leaves nothing to fit: the runs have {num_sizes} model "
            f"size{'s' if num_sizes > 1 else ''}; train more sizes, or use --hold-out none"
        )
    return mask


def candidate_laws(points: Points, entries: Sequence[LawEntry] | None = None) -> list[Law]:
    """Return the laws that the runs can determine: in the one variable that varies, or else in both or in compute.

    Args:
        points: the runs.
        entries: laws to choose from; None: all of ours.
    """
    asked_for = entries is not None
    entries = tuple(LAWS.values()) if entries is None else entries
    alone = [entry for entry in entries if entry.one_variable]
    varying = {name: int(distinct(points.columns[name]).max()) > 0 for name in ("N", "D")}
    if varying["N"] and varying["D"]:
        laws = [entry.make("N") for entry in entries if not entry.one_variable]
        # Where little was repeated, a law that distinguishes repeated data is hardly different from one that does not.
        laws = [law for law in laws if asked_for or law.fades is None or has_repeated(points, ENOUGH_EPOCHS)]
        return [*laws, *(entry.make("C") for entry in alone)] if "C" in points.columns else laws
    variable: Variable = "N" if varying["N"] else "D"
    return [entry.make(variable) for entry in alone]


def held_out_error(law: Law, points: Points, config: FitConfig) -> float | None:
    """Cross-validate a law over sizes: return the mean |prediction / loss − 1| over all points.

    Each size is left out once; with many sizes, neighbours are left out together, in twelve groups. If all runs have
    one size, budgets are left out instead, or single runs if each has many points.

    Returns:
        The error; None if the law cannot be fitted without one of the sizes.
    """
    quick = replace(config, bootstrap=0)
    sizes = distinct(points.columns["N"])
    if sizes.max() == 0:
        whole = points.num_runs < len(points)
        sizes = np.unique(points.runs, return_inverse=True)[1] if whole else distinct(points.columns["D"])
    num_folds = min(int(sizes.max()) + 1, MAX_FOLDS)
    folds = sizes * num_folds // (int(sizes.max()) + 1)
    errors = []
    for fold in range(num_folds):
        out = folds == fold
        try:
            fit = fit_law(law, points.take(~out), quick)
        except RunError:
            return None
        rest = points.take(out)
        errors.append(np.abs(fit.predict(rest.columns) / rest.loss - 1))
    return float(np.concatenate(errors).mean())


def choose_law(laws: Sequence[Law], points: Points, config: FitConfig) -> LawChoice:
    """Choose a law by its cross-validation error over sizes, and among similar ones by AIC.

    Raises:
        RunError: none of the laws can be fitted.
    """
    candidates = [_consider(law, points, config) for law in laws]
    usable = [candidate for candidate in candidates if candidate.obstacle is None]
    if not usable:
        by_obstacle: dict[str, list[str]] = {}
        for candidate in candidates:
            by_obstacle.setdefault(str(candidate.obstacle), []).append(candidate.law.label)
        obstacles = "; ".join(f"{', '.join(labels)}: {obstacle}" for obstacle, labels in by_obstacle.items())
        causes = [*loss_causes(points.columns, points.loss), *unit_causes(points.columns)]
        advice = [cause for cause in causes if cause not in obstacles] if causes else ["train more sizes or budgets"]
        raise RunError("; ".join([f"no law can be fitted to these runs ({obstacles})", *advice]))
    scored = [(candidate, candidate.held_out_error) for candidate in usable if candidate.held_out_error is not None]
    if not scored:
        simplest = min(usable, key=lambda candidate: len(candidate.law.parameters))
        reason = "it has the fewest parameters; there are too few runs to leave out a size and compare"
        return LawChoice(law=simplest.law, reason=reason, candidates=tuple(candidates))
    lowest = min(error for _, error in scored)
    tied = [candidate for candidate, error in scored if error <= TIE * lowest]
    winner = min(tied, key=lambda candidate: np.inf if candidate.aicc is None else candidate.aicc)
    reason = f"left-out sizes are predicted with a mean error of {winner.held_out_error:.2%}"
    if winner.held_out_error is not None and winner.held_out_error > POOR_ERROR:
        reason += ", which is too large for predictions"
    if len(usable) == 1:
        reason += "; it is the only law that these runs determine"
    elif len(scored) == 1:
        reason += "; there are too few runs to fit any other law with a size left out"
    elif len(tied) > 1:
        reason += ", a tie that its lower AIC decides"
    else:
        reason += ", the lowest of the laws that could be compared"
    return LawChoice(law=winner.law, reason=reason, candidates=tuple(candidates))


def _consider(law: Law, points: Points, config: FitConfig) -> Candidate:
    obstacle = why_not_identifiable(law, points)
    if obstacle is not None:
        return Candidate(law=law, obstacle=obstacle)
    try:
        fit = fit_law(law, points, replace(config, bootstrap=0))
    except RunError as error:
        return Candidate(law=law, obstacle=str(error))
    return Candidate(law=law, held_out_error=held_out_error(law, points, config), aicc=fit.aicc)
