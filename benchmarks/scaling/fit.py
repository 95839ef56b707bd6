"""A new fit of the published Chinchilla points, and the time that thousands of bootstrap fits of them take.

    python -m benchmarks.scaling.fit POINTS.csv [--draws 4000] [--output FILE.md]

POINTS.csv has the 245 points that Besiroglu et al. 2024 (arXiv 2404.10102) read from figure 4 of Hoffmann et al. 2022,
with the columns "Model Size", "Training FLOP" and "loss". Their replication leaves out five outliers; so does this.
"""

import argparse
import datetime
import os
import time
from pathlib import Path

import numpy as np

from benchmarks.common import RESULTS, as_started, module_parser, processor
from unimol_scale.scaling.law.fit import FitConfig, fit_law
from unimol_scale.scaling.law.laws import Chinchilla
from unimol_scale.scaling.law.optimal import compute_optimal
from unimol_scale.scaling.law.points import make_points
from unimol_scale.scaling.runs.loss_tables import read_table

COMMAND = "python -m benchmarks.scaling.fit"

HEADERS = {"N": "Model Size", "C": "Training FLOP", "D": "C/(6N)"}
# Besiroglu et al. 2024: estimate, and its standard error where we compare with it.
REPLICATION = {
    "E": (1.817, 0.03),
    "A": (482.0, None),
    "alpha": (0.3478, 0.02),
    "B": (2085.0, None),
    "beta": (0.3658, 0.02),
}
OUTLIERS = 5
CHINCHILLA_FLOPS = 5.76e23


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = module_parser(COMMAND, __doc__ or "")
    parser.add_argument("points", type=Path)
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--output", type=Path, default=RESULTS / "scaling_fit.md")
    return parser


def main() -> None:
    """Fit, time and write the tables."""
    arguments = build_parser().parse_args()
    everything = make_points(read_table(arguments.points, HEADERS)[0], "total")
    outliers = np.argsort(-everything.loss)[:OUTLIERS]
    keep = np.ones(len(everything), dtype=bool)
    keep[outliers] = False
    points = everything.take(keep)

    begin = time.perf_counter()
    fit_law(Chinchilla(), everything, FitConfig(bootstrap=arguments.draws))
    seconds = time.perf_counter() - begin
    fit = fit_law(Chinchilla(), points, FitConfig(bootstrap=arguments.draws))
    begin = time.perf_counter()
    best = compute_optimal(fit, points, CHINCHILLA_FLOPS)
    seconds_best = time.perf_counter() - begin

    cores = len(os.sched_getaffinity(0))
    lines = [
        "# A new fit of the Chinchilla points",
        "",
        f"{datetime.date.today()}, `{as_started(COMMAND)}`: {len(points)} points, {arguments.draws} bootstrap draws, "
        f"90 % intervals. On {cores} core{'s' * (cores > 1)} of {processor()}, shared with other work (load "
        f"{os.getloadavg()[0]:.0f}).",
        "",
        "| parameter | here | interval | replication (standard error) | difference in standard errors |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, (published, error) in REPLICATION.items():
        value, (low, high) = fit.parameters[name], fit.intervals[name]
        theirs = f"{published:g}" + (f" ({error:g})" if error else "")
        distance = f"{abs(value - published) / error:.2f}" if error else ""
        lines.append(f"| {name} | {value:.5g} | {low:.4g} to {high:.4g} | {theirs} | {distance} |")
    low, high = best.exponent_interval
    n_low, n_high = best.parameters_interval
    lines += [
        "",
        f"N grows as C^{best.exponent:.3f} ({low:.3f} to {high:.3f}); for the {CHINCHILLA_FLOPS:.3g} FLOPs of "
        f"Chinchilla the optimum is {best.parameters:.3g} parameters ({n_low:.3g} to {n_high:.3g}) and "
        f"{best.molecules / best.parameters:.1f} tokens a parameter.",
        "",
        f"Gradient {fit.gradient:.1e} of the largest possible, condition number {fit.condition:.0f}.",
        "",
        "The five outliers that are left out have the highest losses, the fewest tokens and the fewest tokens a "
        "parameter of all:",
        "",
        "| parameters | tokens | tokens a parameter | loss |",
        "| --- | --- | --- | --- |",
    ]
    for i in outliers:
        n, d = everything.columns["N"][i], everything.columns["D"][i]
        lines.append(f"| {n:.4g} | {d:.3g} | {d / n:.3f} | {everything.loss[i]:.3f} |")
    lines += [
        "",
        f"Fit of all {len(everything)} points with {arguments.draws} bootstrap fits: **{seconds:.1f} s**; the "
        f"optimum of one budget with its intervals: {seconds_best:.1f} s.",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    arguments.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
