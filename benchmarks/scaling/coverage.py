"""How often the intervals of a scaling-law fit contain the true value: simulated runs of known laws, many times over.

    python -m benchmarks.scaling.coverage [--seeds 50] [--bootstrap 500] [--output FILE.md]

Every table of runs is drawn from a known law on a realistic grid of sizes, budgets and seeds, with
log-normal noise of 0.5 %. The table says in how many of them the 90 % interval covers each parameter, and in how many
the tool itself says that the runs do not determine it, or refuses the law. "best N" is the compute-optimal size for a
budget of 1e12 FLOPs at 6·N·D, whose true value is that of the true law.
"""

import argparse
import datetime
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.common import RESULTS, as_started, module_parser, processor
from unimol_scale.errors import RunError
from unimol_scale.scaling.law.fit import FitConfig, fit_law
from unimol_scale.scaling.law.laws import Chinchilla, Columns, Droppo, Kaplan, Law, Power, Saturating, UniMol2
from unimol_scale.scaling.law.optimal import compute_optimal
from unimol_scale.scaling.law.points import Points

COMMAND = "python -m benchmarks.scaling.coverage"

NOISE = 0.005
BATCH = 1024
BEST = "best N"
BUDGET = 1e12


@dataclass(frozen=True)
class Design:
    """A known law and the runs from which it is fitted.

    Attributes:
        label: name in the table.
        law: its form.
        truth: its parameters.
        sizes: N of the models.
        budgets: D of the runs.
        seeds: runs per pair of size and budget.
    """

    label: str
    law: Law
    truth: dict[str, float]
    sizes: np.ndarray
    budgets: np.ndarray
    seeds: int

    def columns(self) -> Columns:
        """Return the columns of all runs, float [n]."""
        n, d = (values.ravel() for values in np.meshgrid(self.sizes, self.budgets))
        n, d = np.tile(n, self.seeds), np.tile(d, self.seeds)
        steps = d / BATCH
        return {"N": n, "D": d, "C": 6 * n * d, "M": n / 1e6, "S": steps, "MS": n / 1e6 * steps}

    def points(self, seed: int) -> Points:
        """Return simulated runs."""
        columns = self.columns()
        num_runs = len(columns["N"])
        noise = np.random.default_rng(seed).normal(0.0, NOISE, num_runs)
        return Points(
            names=tuple(f"run {i}" for i in range(num_runs)),
            runs=np.arange(num_runs),
            columns=columns,
            loss=self.law.predict(self.truth, columns) * np.exp(noise),
        )


def designs() -> list[Design]:
    """Return the designs of the table."""
    sizes, budgets = np.geomspace(1e5, 1e7, 6), np.geomspace(1e4, 1e6, 4)
    one = np.array([1e6])
    floor = {"E": 0.3, "A": 60.0, "alpha": 0.4, "B": 150.0, "beta": 0.5}
    joint = {"N_c": 3e6, "alpha_N": 0.2, "D_c": 2e5, "alpha_D": 0.3}
    published = np.array([43_788_112, 84_116_080, 164_772_016, 310_082_880], dtype=np.float64)
    steps = np.geomspace(200_000, 810_000, 4) * BATCH
    return [
        Design("chinchilla, 6 sizes × 4 budgets × 2 seeds", Chinchilla(), floor, sizes, budgets, 2),
        Design("chinchilla, 5 sizes × 3 budgets × 2 seeds", Chinchilla(), floor, sizes[:5], budgets[:3], 2),
        Design("kaplan, 6 sizes × 4 budgets × 2 seeds", Kaplan(), joint, sizes, budgets, 2),
        Design("droppo, 6 sizes × 4 budgets × 2 seeds", Droppo(), {**floor, "p": 0.5}, sizes, budgets, 2),
        Design(
            "droppo without a floor, 8 sizes × 5 budgets × 2 seeds",
            Droppo(),
            {"E": 0.0, "A": 27.0, "alpha": 0.37, "B": 7.5, "beta": 0.26, "p": 0.5},
            np.geomspace(3e4, 2e6, 8),
            np.geomspace(2400, 38_400, 5),
            2,
        ),
        Design(
            "saturating in N, 8 sizes × 3 seeds",
            Saturating("N"),
            {"E": 0.5, "A": 40.0, "alpha": 0.35},
            np.geomspace(1e5, 1e7, 8),
            one,
            3,
        ),
        Design("power in N, 6 sizes × 2 seeds", Power("N"), {"A": 12.0, "alpha": 0.2}, sizes, one, 2),
        Design(
            "saturating in N, 5 sizes × 2 seeds within a decade",
            Saturating("N"),
            {"E": 0.5, "A": 40.0, "alpha": 0.35},
            np.geomspace(1e6, 8e6, 5),
            one,
            2,
        ),
        Design(
            "unimol2 as published, 4 sizes × 4 budgets × 2 seeds",
            UniMol2(),
            dict(UniMol2.published),
            published,
            steps,
            2,
        ),
    ]


@dataclass(frozen=True)
class Coverage:
    """Results for one parameter: in how many tables each outcome occurred."""

    covered: int
    fitted: int
    told: int
    refused: int


def simulate(design: Design, num_seeds: int, bootstrap: int) -> dict[str, Coverage]:
    """Fit every simulated table and count, for each parameter."""
    joint = isinstance(design.law, Chinchilla | Kaplan | Droppo)
    names = [*design.truth, BEST] if joint else list(design.truth)
    covered, told = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    fitted = 0
    for seed in range(num_seeds):
        try:
            fit = fit_law(design.law, design.points(seed), FitConfig(bootstrap=bootstrap, seed=seed))
        except RunError:
            continue
        if fit.intervals is None:
            continue
        fitted += 1
        for name, value in design.truth.items():
            low, high = fit.intervals[name]
            covered[name] += low <= value <= high
            told[name] += name in fit.undetermined
        if joint:
            points = design.points(seed)
            truth = compute_optimal(replace(fit, parameters=design.truth, draws={}), points, BUDGET).parameters
            interval = compute_optimal(fit, points, BUDGET).parameters_interval
            covered[BEST] += interval is not None and interval[0] <= truth <= interval[1]
    return {name: Coverage(covered[name], fitted, told[name], num_seeds - fitted) for name in names}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = module_parser(COMMAND, __doc__ or "")
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--bootstrap", type=int, default=500)
    parser.add_argument("--output", type=Path, default=RESULTS / "scaling_coverage.md")
    return parser


def main() -> None:
    """Simulate every design and write the table."""
    arguments = build_parser().parse_args()
    begin = time.perf_counter()
    lines = [
        "# Do the intervals contain the true value?",
        "",
        f"{datetime.date.today()}, `{as_started(COMMAND)}`.",
        "",
        f"{arguments.seeds} simulated tables a law, log-normal noise of {NOISE:.1%}, {arguments.bootstrap} bootstrap "
        f'draws, 90 % intervals; "best N" is the compute-optimal size for {BUDGET:.0e} FLOPs. Where parameters trade '
        f"against each other (the last two designs) the tool says so or refuses the law. {processor()}.",
        "",
        "| runs | parameter | truth | interval covers it | tool says it is undetermined | law refused |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for design in designs():
        for name, found in simulate(design, arguments.seeds, arguments.bootstrap).items():
            share = f"{found.covered / found.fitted:.0%}" if found.fitted else ""
            truth = f"{design.truth[name]:.4g}" if name in design.truth else ""
            line = f"| {design.label} | {name} | {truth} | {share} | {found.told} | {found.refused} |"
            print(line, flush=True)
            lines.append(line)
    lines += ["", f"{time.perf_counter() - begin:.0f} s in all."]
    arguments.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
