"""Runs what is still missing of a cross-validation (fine-tuned starts, baselines, probes), and writes the report."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from benchmarks.common import as_started
from benchmarks.downstream.folds.fold_baselines import fit_fold_baselines, kept_fold_baselines
from benchmarks.downstream.folds.fold_data import FoldData, SetRows, kept_result, shared_table
from benchmarks.downstream.folds.fold_probes import FrozenModel, fit_probe
from benchmarks.downstream.folds.fold_report import write_fold_report
from benchmarks.downstream.folds.other_tools import read_external, write_folds
from benchmarks.downstream.folds.report_results import read_results
from benchmarks.downstream.folds.results_of_set import (
    ChosenStart,
    Probe,
    SetResults,
    best_by_validation,
    joined,
    restricted,
)
from benchmarks.downstream.sets import SCRATCH, SETS, chosen_sets, data_of, file_name, repeats_of, settings, twin
from unimol_scale.downstream.comparison.fold_results import FoldResult, read_fold_result
from unimol_scale.downstream.config import FOLDS, FinetuneConfig, Pooling
from unimol_scale.downstream.finetuning.finetune import finetune
from unimol_scale.downstream.finetuning.finetuning_folder import RESULTS_NAME
from unimol_scale.errors import ConfigError

STARTS, BASELINES, PROBES = "starts", "baselines", "probes"
PARTS = (STARTS, BASELINES, PROBES)


@dataclass(frozen=True, kw_only=True)
class Start:
    """A model that is fine-tuned and probed.

    Attributes:
        name: in tables.
        model: what the weights, or the dimensions, are of.
        reinitialise: random weights.
        scratch: name of the start with the same dimensions and random weights; "" for that one, or if there is none.
    """

    name: str
    model: str
    reinitialise: bool = False
    scratch: str = ""


def with_scratch(starts: dict[str, str], *, wanted: bool) -> list[Start]:
    """Return each start, and scratch once for all that have the same dimensions.

    Args:
        starts: name → model.
        wanted: whether there is scratch at all.
    """
    if not wanted:
        return [Start(name=name, model=model) for name, model in starts.items()]
    scratch: dict[str, Start] = {}
    for name, model in starts.items():
        scratch.setdefault(twin(model), Start(name=f"{SCRATCH} ({name})", model=model, reinitialise=True))
    named = [Start(name=name, model=model, scratch=scratch[twin(model)].name) for name, model in starts.items()]
    return [*named, *scratch.values()]


def run_folds(options: argparse.Namespace, starts: dict[str, str]) -> None:
    """Do every part that is asked for, and write the report; with --collect nothing is computed."""
    if not options.splits and not options.collect and set(options.part) != {BASELINES} and not starts:
        raise ConfigError("--start NAME=MODEL is needed: starts and probes need models")
    everything = with_scratch(starts, wanted=not options.no_scratch)
    external = dict(_named(text) for text in options.external)
    found = []
    for name in chosen_sets(options):
        cells = SetCells(options=options, name=name)
        for fraction in options.fraction:
            if options.splits:
                print(write_folds(options.splits, cells.data(fraction)))
                continue
            found.append(cells.results(fraction, everything, external))
    whole = with_earlier([one for one in found if one.all_results], options.earlier, options.earlier_only)
    if options.output and whole:
        write_fold_report(options.output, as_started("python -m benchmarks.downstream.gains"), whole)
        print(options.output)


def with_earlier(found: list[SetResults], earlier: Path | None, only: Sequence[str] = ()) -> list[SetResults]:
    """Return results in the order of the sets, with those of an earlier report for what was not found now.

    Args:
        found: each of one set and share of the labels.
        earlier: folder of the report; None: there is none.
        only: names of the earlier results that are wanted, of the sets and shares that were found now, so that a report
            of one question has intervals for its own results; empty: all.

    Raises:
        ConfigError: an earlier result of the same set is not of the same rows in the same folds; or the report has no
            result of a name in ``only``.
    """
    kept = {(one.set, one.fraction): one for one in (read_results(earlier) if earlier else [])}
    if only:
        names = {result.name for one in kept.values() for result in (*one.all_results, *one.baselines)}
        if unknown := sorted(set(only) - names):
            raise ConfigError(
                f"--earlier-only {unknown[0]}: {earlier} has no result of this name; it has {', '.join(sorted(names))}"
            )
        wanted = {(one.set, one.fraction) for one in found}
        kept = {key: restricted(one, only) for key, one in kept.items() if key in wanted}
    now = {(one.set, one.fraction): one for one in found}
    everything = [joined(one, kept[key]) if key in kept else one for key, one in now.items()]
    everything += [one for key, one in kept.items() if key not in now]
    order = list(SETS)
    return sorted(everything, key=lambda one: (order.index(one.set), -one.fraction))


def _named(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not equals or not Path(folder).is_dir():
        raise ConfigError(f"--external {text}: give NAME=DIR, a folder with the predictions of that tool")
    return name, Path(folder)


@dataclass(frozen=True, kw_only=True)
class SetCells:
    """The folders of one set under --work.

    Attributes:
        options: of the command line.
        name: of the set.
    """

    options: argparse.Namespace
    name: str

    @cached_property
    def table(self) -> Path:
        """The rows that all starts share."""
        options = self.options
        return shared_table(data_of(options, self.name), SETS[self.name].targets, options.cache, options.work)

    @cached_property
    def rows(self) -> SetRows:
        """The same rows in memory."""
        options, chosen = self.options, SETS[self.name]
        config = FinetuneConfig(
            data=self.table,
            size="0.5M",
            targets=chosen.targets,
            metric=chosen.metric,
            split=options.split,
            folds=options.folds,
            repeats=repeats_of(options, self.name),
            cache=options.cache,
            skip_bad=True,
        )
        return SetRows(self.name, config)

    @property
    def folds(self) -> int:
        """Number of folds of all repeats."""
        return (self.options.folds or FOLDS) * repeats_of(self.options, self.name)

    def data(self, fraction: float) -> FoldData:
        """Return rows and folds with a share of the training labels."""
        return self.rows.at(fraction)

    def results(self, fraction: float, starts: list[Start], external: dict[str, Path]) -> SetResults:
        """Return everything with one share of the labels, and do what is not done yet."""
        part = self.options.part
        fine_tuned = [self.fine_tuned(start, fraction) for start in starts] if STARTS in part else []
        baselines = (self.baselines(fraction) if BASELINES in part else None) or []
        probes = [
            self.probe(start, fraction, pooling)
            for pooling in (self.options.pooling if PROBES in part else ())
            for start in starts
        ]
        others = [read_external(name, folder, self.data(fraction)) for name, folder in external.items()]
        return SetResults(
            set=self.name,
            fraction=fraction,
            starts=tuple(one for one in fine_tuned if one is not None),
            references=tuple(one for one in (*baselines[:1], *others) if one is not None),
            baselines=tuple(baselines[1:]),
            probes=tuple(one for one in probes if one is not None),
        )

    def fine_tuned(self, start: Start, fraction: float) -> ChosenStart | None:
        """Return a start at the rates that are best on validation; None if it is not collected."""
        make = partial(settings, self.options, self.name, start.model, fraction, reinitialise=start.reinitialise)
        rates = SETS[self.name].rates
        if self.options.collect and not all((make(rate=rate).folder / RESULTS_NAME).is_file() for rate in rates):
            return None
        configs = {rate: make(rate=rate, data=self.table) for rate in rates}
        for config in configs.values():
            finetune(config)
        of_rate = {rate: read_fold_result(start.name, config.folder) for rate, config in configs.items()}
        return best_by_validation(start.name, of_rate, scratch=start.scratch, is_scratch=start.reinitialise)

    def baselines(self, fraction: float) -> list[FoldResult] | None:
        """Return the best fingerprint baseline and each of them; None if they are not collected."""
        folder = self._folder("baselines", fraction)
        kept = kept_fold_baselines(folder, self.folds)
        if kept is not None or self.options.collect:
            return kept
        return fit_fold_baselines(folder, self.data(fraction), lambda: self.rows.features)

    def probe(self, start: Start, fraction: float, pooling: Pooling) -> Probe | None:
        """Return the linear model on the vectors of a start; None if it is not collected."""
        frozen = FrozenModel(model=start.model, reinitialise=start.reinitialise, pooling=pooling)
        model = Path(start.model).name + (f"-{SCRATCH}" if start.reinitialise else "")
        # The mean was the first pooling, and its folders have no name of it.
        before, after = ("", "") if pooling == "mean" else (f"{pooling}-", f", {pooling}")
        name, folder = f"probe of {start.name}{after}", self._folder(f"{before}probe-{model}", fraction)
        result = kept_result(name, folder, folds=self.folds, sha256=frozen.sha256)
        if result is None and self.options.collect:
            return None
        if result is None:
            path = self.options.work / "vectors" / f"{file_name(self.name)}-{before}{model}.npz"
            vectors = partial(frozen.kept, path, self.rows)
            result = fit_probe(name, folder, self.data(fraction), vectors, frozen)
        scratch = start.scratch and f"probe of {start.scratch}{after}"
        return Probe(result=result, start=start.name, scratch=scratch, pooling=pooling)

    def _folder(self, what: str, fraction: float) -> Path:
        folder: Path = self.options.work / f"{file_name(self.name)}-{what}-{fraction:g}-{self.options.split}"
        return folder
