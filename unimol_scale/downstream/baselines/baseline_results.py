"""The results of the baselines of a fine-tuning, as stored in ``results.json``. Imports no torch.

Shapes: L targets.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import numpy as np

TRIVIAL = "trivial"  # the mean of the training labels; for classes, their frequency
Verdict = Literal["better", "no sure difference", "worse", "too few to tell"]
Scores = tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class BaselineScore:
    """Scores of one baseline by the metric of the fine-tuning.

    Attributes:
        name: name of the table model, or "trivial".
        valid_by_target: [L] scores of the validation rows; None where undefined.
        test_by_target: [L] scores of the test rows; None where undefined.
    """

    name: str
    valid_by_target: Scores
    test_by_target: Scores


@dataclass(frozen=True, kw_only=True)
class MemberBaselines:
    """The baselines fitted to the same rows as one or several models of the fine-tuning.

    Attributes:
        seeds: seeds of these models.
        chosen: name of the table model that is best on the validation rows.
        scores: scores of every table model and of the trivial baseline.
        label_std: [L] standard deviations of the training labels of a regression; empty for classifiers.
        limits: name of a table model → largest number of training rows that it was fitted to, for models that did not
            see all rows of a target.
        train_rows: number of training rows of the target with the most labels.
        unreadable: number of rows left out because RDKit cannot read their SMILES.
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
    """The models of a fine-tuning compared with one baseline on the same test rows.

    For several targets it is the mean over them; errors in different units are divided by the standard deviations of
    the training labels.

    Attributes:
        against: "best" for the best table model on the validation rows, or "trivial".
        is_ratio: True if ``value`` is the models' error divided by that of the baseline; False if it is the models'
            score minus that of the baseline.
        value: ratio or difference over all test rows; None if it is undefined.
        low: lower end of its 95 % interval.
        high: upper end of its 95 % interval.
        verdict: conclusion from the interval.
        verdict_by_target: [L] conclusions for each target separately.
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
        members: one entry for each group of models that saw the same rows.
        best: the models compared with the best table model of each entry.
        trivial: the models compared with the mean of the training labels.
        test_molecules: number of distinct molecules among the compared test rows.
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
        """Return the score of a baseline, averaged over targets and then over members; None if it is undefined.

        Args:
            name: name of the baseline; None: the one that was chosen in each member.
            part: rows whose score is returned.
            standardised: whether to divide by the standard deviation of the training labels.
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
        """Return the test score of the chosen table models for one target, averaged over members."""
        scores = [member.of(member.chosen).test_by_target[target] for member in self.members]
        there = [value for value in scores if value is not None]
        return float(np.mean(there)) if there else None
