"""All results of one set with one fraction of the training labels, and which of their differences are significant."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from benchmarks.downstream.folds.fold_baselines import BEST
from unimol_scale.downstream.comparison.compare import Comparison, compare_results
from unimol_scale.downstream.comparison.fold_results import FoldResult, check_alike
from unimol_scale.downstream.config import Pooling
from unimol_scale.downstream.data.splitting.parts import Fold
from unimol_scale.downstream.finetuning.folds.fold_files import OutOfFold
from unimol_scale.downstream.fold_statistics import BlockDifference, Interval, compare_methods
from unimol_scale.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ChosenStart:
    """A start with the learning rate of each fold that is best on the validation rows of that fold.

    Attributes:
        result: scores and out-of-fold predictions of the chosen models.
        rates: fold → learning rate.
        scratch: name of the same model from random weights; "" for those themselves, or if there is none.
        is_scratch: whether the weights were random.
    """

    result: FoldResult
    rates: Mapping[Fold, float]
    scratch: str = ""
    is_scratch: bool = False


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A linear model on the vectors of a frozen start.

    Attributes:
        result: its cross-validation.
        start: name of the start, whose fine-tuning it is compared with.
        scratch: name of the probe of the same model with random weights, which it is compared with; "" as above.
        pooling: how atoms became the vectors.
    """

    result: FoldResult
    start: str
    scratch: str = ""
    pooling: Pooling = "mean"

    @property
    def title(self) -> str:
        """The start, and the pooling unless it is the mean."""
        return self.start if self.pooling == "mean" else f"{self.start}, {self.pooling}"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The difference of two results, and whether it is significant.

    Attributes:
        value: score of the one minus that of the other, mean over folds.
        interval: 95 %, corrected for the training rows that folds share, and for all pairs that are compared together.
        p: of no difference, likewise.
        folds_better: folds in which the one is better.
        folds: number of them.
        higher_is_better: whether a positive difference is an improvement.
    """

    value: float
    interval: Interval
    p: float
    folds_better: int
    folds: int
    higher_is_better: bool

    @property
    def is_significant(self) -> bool:
        """Whether the interval excludes no difference."""
        return not self.interval.holds(0.0)

    @property
    def has_better_mean(self) -> bool:
        """Whether the one has the better mean score, significant or not."""
        return self.value != 0.0 and (self.value > 0.0) == self.higher_is_better

    @property
    def is_significantly_better(self) -> bool:
        """Whether the one is better, and significantly so."""
        return self.is_significant and self.has_better_mean

    @property
    def is_significantly_worse(self) -> bool:
        """Whether the one is worse, and significantly so."""
        return self.is_significant and not self.has_better_mean


class Family:
    """Results that are compared together: their intervals hold for all pairs of them.

    Args:
        results: two or more of the same rows in the same folds.

    Raises:
        ConfigError: a score is not defined.
    """

    def __init__(self, results: Sequence[FoldResult]) -> None:
        outcome = results[0].outcome
        scores_AJ = np.stack([one.scores_J for one in results])
        if not np.isfinite(scores_AJ).all():
            raise ConfigError(f"{outcome.metric} is not defined in every fold, so the folds cannot be compared")
        self._place = {one.name: at for at, one in enumerate(results)}
        self._higher_is_better, self._folds = outcome.prefers_high, scores_AJ.shape[1]
        compared = compare_methods(scores_AJ, max(one.outcome.test_to_train for one in results))
        self._pairs: dict[tuple[int, int], BlockDifference] = {(one.first, one.second): one for one in compared.pairs}

    def between(self, one: str, other: str) -> Difference:
        """Return the score of one minus that of the other."""
        first, second = self._place[one], self._place[other]
        pair = self._pairs[min(first, second), max(first, second)]
        turned = first > second
        interval = Interval(low=-pair.interval.high, high=-pair.interval.low) if turned else pair.interval
        return Difference(
            value=-pair.value if turned else pair.value,
            interval=interval,
            p=pair.p,
            folds_better=pair.blocks_lower if turned == self._higher_is_better else pair.blocks_higher,
            folds=self._folds,
            higher_is_better=self._higher_is_better,
        )


@dataclass(frozen=True, kw_only=True)
class SetResults:
    """All results of one set with one share of the labels.

    Attributes:
        set: its name.
        fraction: of the training labels.
        starts: fine-tuned models, those from random weights last.
        references: what needs no pretraining: the best fingerprint baseline first, if there is one, and other tools.
        baselines: the fingerprint baselines one by one, for their means.
        probes: linear models on the vectors of the starts.
        made: for results of an earlier report, when, where and by which command it was made; otherwise "".
        made_of: the same for those results, by name, that are of another report than the rest.
    """

    set: str
    fraction: float
    starts: tuple[ChosenStart, ...] = ()
    references: tuple[FoldResult, ...] = ()
    baselines: tuple[FoldResult, ...] = ()
    probes: tuple[Probe, ...] = ()
    made: str = ""
    made_of: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_alike(self.all_results)

    @property
    def fine_tuned(self) -> tuple[FoldResult, ...]:
        """Results of the starts."""
        return tuple(start.result for start in self.starts)

    @property
    def main(self) -> tuple[FoldResult, ...]:
        """What stands in the overview: fine-tuned models and references."""
        return (*self.fine_tuned, *self.references)

    @property
    def all_results(self) -> tuple[FoldResult, ...]:
        """Every result except the single fingerprint baselines, of which only the best counts."""
        return (*self.main, *(probe.result for probe in self.probes))

    @cached_property
    def comparison(self) -> Comparison | None:
        """The starts with each other; None if there are fewer than two."""
        return compare_results(self.fine_tuned) if len(self.starts) > 1 else None

    @cached_property
    def _fine_tuned_family(self) -> Family | None:
        """The starts with each other, as in ``comparison``."""
        return Family(self.fine_tuned) if len(self.starts) > 1 else None

    @cached_property
    def _reference_families(self) -> Mapping[str, Family]:
        """Reference → the pretrained starts and it; a reference that varies more does not blur the others."""
        starts = [start.result for start in self.starts if not start.is_scratch]
        return {one.name: Family([*starts, one]) for one in self.references if starts}

    @cached_property
    def _probe_families(self) -> Mapping[tuple[Pooling, str], Family]:
        """Pooling, and name of a reference or "" → its probes with each other, and with the reference."""
        families = {}
        for pooling in dict.fromkeys(probe.pooling for probe in self.probes):
            probes = [probe.result for probe in self.probes if probe.pooling == pooling]
            if len(probes) > 1:
                families[pooling, ""] = Family(probes)
            for one in self.references[:1]:
                families[pooling, one.name] = Family([*probes, one])
        return families

    def to_scratch(self, start: ChosenStart) -> Difference | None:
        """Return how a start differs from its model with random weights; None if that is not there."""
        if self._fine_tuned_family is None or start.scratch not in [one.name for one in self.fine_tuned]:
            return None
        return self._fine_tuned_family.between(start.result.name, start.scratch)

    def to_reference(self, start: ChosenStart, reference: str) -> Difference | None:
        """Return how a start differs from a reference, scratch as a pair by itself; None if that is not there."""
        found = [one for one in self.references if one.name == reference]
        if not found:
            return None
        family = self._pair(start.result, found[0]) if start.is_scratch else self._reference_families[reference]
        return family.between(start.result.name, reference)

    def probe_to_scratch(self, probe: Probe) -> Difference | None:
        """Return how a probe differs from that of the same model with random weights; None if that is not there."""
        if probe.scratch not in [one.result.name for one in self.probes]:
            return None
        return self._probe_families[probe.pooling, ""].between(probe.result.name, probe.scratch)

    def probe_to_reference(self, probe: Probe) -> Difference | None:
        """Return how a probe differs from the first of the references; None if there is none."""
        if not self.references:
            return None
        name = self.references[0].name
        return self._probe_families[probe.pooling, name].between(probe.result.name, name)

    def to_fine_tuned(self, probe: Probe) -> Difference | None:
        """Return how a probe differs from the fine-tuned start, a pair by itself; None if that is not there."""
        found = [one for one in self.fine_tuned if one.name == probe.start]
        return self._pair(probe.result, found[0]).between(probe.result.name, probe.start) if found else None

    @cached_property
    def _pairs(self) -> dict[tuple[str, str], Family]:
        """Pairs by themselves that have been compared: every table asks for them again."""
        return {}

    def _pair(self, one: FoldResult, other: FoldResult) -> Family:
        key = (one.name, other.name)
        if key not in self._pairs:
            self._pairs[key] = Family([one, other])
        return self._pairs[key]


def joined(new: SetResults, earlier: SetResults) -> SetResults:
    """Return the results of both, in the order that ``SetResults`` asks for: those of the same name from ``new``.

    Raises:
        ConfigError: they are not of the same rows in the same folds.
    """
    names = {one.name for one in (*new.all_results, *new.baselines)}
    starts = [*new.starts, *(one for one in earlier.starts if one.result.name not in names)]
    references = [*new.references, *(one for one in earlier.references if one.name not in names)]
    kept = [one.name for one in (*earlier.all_results, *earlier.baselines) if one.name not in names]
    return SetResults(
        set=new.set,
        fraction=new.fraction,
        starts=tuple(sorted(starts, key=lambda one: one.is_scratch)),
        references=tuple(sorted(references, key=lambda one: one.name != BEST)),
        baselines=(*new.baselines, *(one for one in earlier.baselines if one.name not in names)),
        probes=(*new.probes, *(one for one in earlier.probes if one.result.name not in names)),
        made=new.made,
        made_of={name: earlier.made_of.get(name, earlier.made) for name in kept},
    )


def restricted(results: SetResults, names: Collection[str]) -> SetResults:
    """Return only the results of some names."""
    return replace(
        results,
        starts=tuple(one for one in results.starts if one.result.name in names),
        references=tuple(one for one in results.references if one.name in names),
        baselines=tuple(one for one in results.baselines if one.name in names),
        probes=tuple(one for one in results.probes if one.result.name in names),
        made_of={name: made for name, made in results.made_of.items() if name in names},
    )


def best_by_validation(
    name: str, of_rate: Mapping[float, FoldResult], *, scratch: str = "", is_scratch: bool = False
) -> ChosenStart:
    """Return, fold by fold, the models of the learning rate with the best validation score in that fold.

    A rate for all folds together would be chosen by validation rows that are tested in other folds.

    Args:
        name: of the start.
        of_rate: learning rate → its cross-validation.
        scratch: name of the same model from random weights.
        is_scratch: whether the weights were random.
    """
    first = next(iter(of_rate.values()))
    sign = 1.0 if first.outcome.prefers_high else -1.0

    def valid(rate: float, fold: Fold) -> float:
        return sign * float(np.mean([seed.valid for seed in of_rate[rate].outcome.seeds if seed.fold == fold]))

    folds = first.outcome.folds
    rates = {fold: max(of_rate, key=lambda rate: valid(rate, fold)) for fold in folds}
    seeds = tuple(seed for fold in folds for seed in of_rate[rates[fold]].outcome.seeds if seed.fold == fold)
    parts = [(of_rate[rates[fold]].rows, fold) for fold in folds]
    rows = [(one, (one.repeat_T == fold.repeat) & (one.fold_T == fold.fold)) for one, fold in parts]
    joined = OutOfFold(
        outputs=first.rows.outputs,
        row_T=np.concatenate([one.row_T[here] for one, here in rows]),
        smiles_T=tuple(one.smiles_T[at] for one, here in rows for at in np.flatnonzero(here).tolist()),
        repeat_T=np.concatenate([one.repeat_T[here] for one, here in rows]),
        fold_T=np.concatenate([one.fold_T[here] for one, here in rows]),
        seed_T=np.concatenate([one.seed_T[here] for one, here in rows]),
        labels_TL=np.concatenate([one.labels_TL[here] for one, here in rows]),
        prediction_TL=np.concatenate([one.prediction_TL[here] for one, here in rows]),
    )
    result = replace(first, name=name, outcome=replace(first.outcome, seeds=seeds), rows=joined)
    return ChosenStart(result=result, rates=rates, scratch=scratch, is_scratch=is_scratch)
