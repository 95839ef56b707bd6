"""How far a run is: the counters that travel with every checkpoint. Pure data."""

from dataclasses import dataclass


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
