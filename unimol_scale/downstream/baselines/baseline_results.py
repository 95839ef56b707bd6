"""What the baselines of a fine-tuning came to, as ``results.json`` keeps it. Imports no torch.

Shapes: L targets.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import numpy as np

TRIVIAL = "trivial"  # the mean of the training labels; of classes, the share of ones
Verdict = Literal["better", "no sure difference", "worse", "too few to tell"]
Scores = tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class BaselineScore:
    """Scores of one baseline, by the metric of the fine-tuning.

    Attributes:
        name: of the table model, or "trivial".
        valid_by_target: [L] of the validation rows; None where undefined.
        test_by_target: [L] of the test rows.
    """

    name: str
    valid_by_target: Scores
    test_by_target: Scores


@dataclass(frozen=True, kw_only=True)
class MemberBaselines:
    """The baselines that saw the same rows as one or several models of the fine-tuning.

    Attributes:
        seeds: of these models.
        chosen: the table model that is best on the validation rows.
        scores: of every table model, and of the trivial one.
        label_std: [L] standard deviation of the training labels of a regression; empty for classifiers.
        limits: name of a table model → the most training rows that it was fitted to, where a target has more.
        train_rows: training rows of the target that has most of them.
        unreadable: rows that are left out, since RDKit cannot read their SMILES.
    """

    seeds: tuple[int, ...]
    chosen: str
    scores: tuple[BaselineScore, ...]
    label_std: tuple[float, ...]
    limits: dict[str, int]
    train_rows: int
    unreadable: int

    def of(self, name: str) -> BaselineScore:
        """Return the scores of one baseline."""
        return next(score for score in self.scores if score.name == name)


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """The models of a fine-tuning against one baseline, on the same test rows.

    For several targets, the mean over them; of errors in different units, in standard deviations of the training
    labels.

    Attributes:
        against: the best table model by the validation rows ("best"), or "trivial".
        is_ratio: ``value`` is the error of the models over that of the baseline; else the score of the models minus
            that of the baseline.
        value: of all test rows; None where it is undefined.
        low: end of its 95 % interval.
        high: its other end.
        verdict: what the interval says of the models.
        verdict_by_target: [L] the same of each target by itself.
    """

    against: str
    is_ratio: bool
    value: float | None
    low: float | None
    high: float | None
    verdict: Verdict
    verdict_by_target: tuple[Verdict, ...]


@dataclass(frozen=True, kw_only=True)
class BaselineResults:
    """All baselines of a fine-tuning.

    Attributes:
        members: one entry for all models that saw the same rows.
        best: the models against the best table model of each entry.
        trivial: the models against the mean of the training labels.
        test_molecules: distinct molecules among the test rows that are compared.
    """

    members: tuple[MemberBaselines, ...]
    best: PairedDifference
    trivial: PairedDifference
    test_molecules: int

    @property
    def chosen(self) -> str:
        """Name of the table model that was chosen most often."""
        return Counter(member.chosen for member in self.members).most_common(1)[0][0]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the table models."""
        return tuple(score.name for score in self.members[0].scores if score.name != TRIVIAL)

    def mean(
        self, name: str | None, *, part: Literal["valid", "test"] = "test", standardised: bool = False
    ) -> float | None:
        """Return the score of a baseline, as a mean over targets and then over members.

        Args:
            name: of the baseline; None: of each member the one that was chosen.
            part: whose rows.
            standardised: in standard deviations of the training labels.
        """
        found = []
        for member in self.members:
            scores: Scores = getattr(member.of(name or member.chosen), f"{part}_by_target")
            scale = member.label_std if standardised else (1.0,) * len(scores)
            there = [value / std for value, std in zip(scores, scale, strict=True) if value is not None]
            if there:
                found.append(float(np.mean(there)))
        return float(np.mean(found)) if found else None

    def target_mean(self, target: int) -> float | None:
        """Return the test score of one target by the table models that were chosen, mean over members."""
        scores = [member.of(member.chosen).test_by_target[target] for member in self.members]
        there = [value for value in scores if value is not None]
        return float(np.mean(there)) if there else None
