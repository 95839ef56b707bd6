"""The counters of a run, stored in every checkpoint."""

from dataclasses import dataclass

from unimol_scale.checkpoints.run.checkpoint_folder import MANIFEST, CheckpointInfo
from unimol_scale.config import Origin, build
from unimol_scale.errors import CheckpointError, ConfigError


@dataclass(kw_only=True)
class Progress:
    """How far a run is; saved in every checkpoint.

    Attributes:
        step: steps done, including skipped ones.
        data_step: steps of the data's order that are used up; ahead of ``step`` by what rollbacks left out.
        molecules: molecules seen, counting repeats.
        conformers: conformers seen, counting repeats.
        atoms: atoms of those molecules.
        flops: FLOPs of training on those molecules, without padding and recomputation.
        seconds: wall-clock time over all sessions.
        skipped: steps that changed nothing because loss or gradient was not finite.
        skipped_in_a_row: how many of the latest steps were skipped in a row.
        rollbacks: how often the run went back to a checkpoint.
    """

    step: int = 0
    data_step: int = 0
    molecules: int = 0
    conformers: int = 0
    atoms: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    skipped: int = 0
    skipped_in_a_row: int = 0
    rollbacks: int = 0


def read_progress(checkpoint: CheckpointInfo) -> Progress:
    """Return how far the run was at a checkpoint.

    Raises:
        CheckpointError: the checkpoint has counters that this version does not know.
    """
    try:
        return build(Progress, checkpoint.meta["progress"], Origin(name=str(checkpoint.path / MANIFEST), recorded=True))
    except ConfigError as error:
        raise CheckpointError(f"checkpoint {checkpoint.path}: {error}") from error
