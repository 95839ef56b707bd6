"""Which share of a run is left out at its start where the points along runs are fitted."""

from unimol_scale.errors import RunError

BURN_IN = 0.25  # of a run; Uni-Mol2 dropped the first 200,000 of 810,000 steps


def burn_in_of(given: float | None, *, trajectories: bool) -> float | None:
    """Return ``burn_in`` of an ``AnalysisConfig``: None where every run counts by its end alone.

    Args:
        given: by the user; None: the usual share.
        trajectories: whether the points along runs are fitted.

    Raises:
        RunError: a share is given, and they are not.
    """
    if not trajectories:
        if given is not None:
            raise RunError("--burn-in belongs to --trajectories; without it every run counts by its end alone")
        return None
    return BURN_IN if given is None else given
