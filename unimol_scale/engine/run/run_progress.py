"""The counters of a run, which every checkpoint has."""

from dataclasses import dataclass

from unimol_scale.checkpoints.run.checkpoint_folder import MANIFEST, CheckpointInfo
from unimol_scale.config import Origin, build
from unimol_scale.errors import CheckpointError, ConfigError


@dataclass(kw_only=True)
class Progress:
    """How far a run is; saved with every checkpoint.

    Attributes:
        step: steps done, skipped ones among them.
        data_step: steps of the data's order used up; ahead of ``step`` by what rollbacks left out.
        molecules: seen, repeats counted.
        conformers: seen, repeats counted.
        atoms: of those molecules.
        flops: of those molecules' training, padding and recomputation not counted.
        seconds: of wall clock over all sessions.
        skipped: steps whose loss or gradient was not finite, which changed nothing.
        skipped_in_a_row: of these, the newest without a good step between them.
        rollbacks: times that the run went back to a checkpoint.
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
        CheckpointError: it has counters that this version does not know.
    """
    try:
        return build(Progress, checkpoint.meta["progress"], Origin(name=str(checkpoint.path / MANIFEST), recorded=True))
    except ConfigError as error:
        raise CheckpointError(f"checkpoint {checkpoint.path}: {error}") from error
