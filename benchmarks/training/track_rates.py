"""Find the best learning rates of the atom track and of the pair track, each by itself, at several sizes, with Muon.

    python -m benchmarks.training.track_rates --data data/zinc20 --output benchmarks/results/track_rates.md

Every size is trained at several rates, each with several ratios of the pair track's rate to it. Embeddings, norms and
heads follow the atom track's rate. A quadratic in the logarithms of both rates is fitted to the logarithm of the final
losses of a size; its lowest point has the best rates, with an interval by resampled residuals. A line through the sizes
says how each best rate changes with the number of parameters. A finished run is skipped and an unfinished one is
resumed: interrupt it and start the same command again.
"""

import argparse
import datetime
import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# As every command has it, and before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from matplotlib.figure import Figure

from benchmarks.common import RESULTS, as_started, deliver, exit_status, module_parser, processor
from unimol_scale.common.report.markdown import markdown_table
from unimol_scale.common.report.pictures import save_figure
from unimol_scale.common.run_files import SUMMARY_NAME
from unimol_scale.model.accounting import count_parameters
from unimol_scale.model.presets import preset
from unimol_scale.scaling.ladder.ladder import LadderConfig, plan
from unimol_scale.scaling.ladder.launch import launch_ladder
from unimol_scale.store.schema import Float64

COMMAND = "python -m benchmarks.training.track_rates"
EXIT_INTERRUPTED = 130
# Size → rate in the middle of its sweep, as in configs/ladder/rates.yaml.
RATES = {"0.03M": 1.6e-2, "0.06M": 1.3e-2, "0.1M": 1.0e-2, "0.2M": 7.0e-3, "0.3M": 6.0e-3, "0.5M": 5.0e-3}
DRAWS = 1000
_TERMS = 6  # of a quadratic in two variables


@dataclass(frozen=True, kw_only=True)
class Point:
    """A finished run.

    Attributes:
        size: name of the preset.
        atom_rate: peak learning rate of everything but the pair track's matrices.
        pair_rate: that of the pair track's matrices.
        loss: final validation loss.
    """

    size: str
    atom_rate: float
    pair_rate: float
    loss: float


@dataclass(frozen=True, kw_only=True)
class BestRates:
    """The lowest point of a quadratic, for one size.

    Attributes:
        size: name of the preset.
        best_2: log2 of the best rates of atom track and pair track; NaN if the quadratic has no lowest point within
            the rates that were tried.
        drawn_B2: the same for every draw of residuals that has one, [B, 2].
        share: fraction of the draws that have one.
    """

    size: str
    best_2: Float64
    drawn_B2: Float64
    share: float


def ladder_of(pair: float, options: argparse.Namespace) -> LadderConfig:
    """Return the ladder of all sizes and rates with one ratio of the pair track's rate."""
    return LadderConfig(
        name=f"tracks-{pair:g}",
        data=options.data,
        sizes=tuple(options.size),
        molecules=(options.molecules,),
        warmup=0.15,
        rate_factors=tuple(options.rates),
        seeds=tuple(options.seeds),
        output=options.runs,
        launcher="python",
        runs_at_once=0,
        overrides={
            "train.optimizer": "muon",
            "train.muon_pair_rate": pair,
            "train.schedule": "wsd",
            "train.global_batch_size": 32,
            "train.precision": "fp32",
            "train.validate_every": options.molecules,
            "train.checkpoint_every": options.molecules,
            "train.keep_finished": "none",
            "data.max_pairs": 24000,
            "data.workers": 0,
            "data.validation_molecules": 500,
            "data.validation_repeats": 2,
            "zero.stage": 0,
        },
        size_overrides={size: {"train.learning_rate": RATES[size]} for size in options.size},
    )


def trained(options: argparse.Namespace) -> list[Point]:
    """Train, or read, every run.

    Raises:
        UnimolScaleError: a run failed, or its folder holds one with other settings.
        KeyboardInterrupt: a signal stopped the runs after they had saved.
    """
    ladders = {pair: ladder_of(pair, options) for pair in options.pair_rates}
    rungs = {pair: plan(ladder) for pair, ladder in ladders.items()}
    first = next(iter(ladders.values()))  # where and how runs are started is the same for all
    results = launch_ladder(first, [rung for of_pair in rungs.values() for rung in of_pair])
    if any(result.action == "stopped" for result in results):
        raise KeyboardInterrupt
    points = []
    for pair, of_pair in rungs.items():
        for rung in of_pair:
            summary = json.loads((rung.folder / SUMMARY_NAME).read_text(encoding="utf-8"))
            rate = float(rung.overrides["train.learning_rate"])
            loss = math.inf if summary["diverged"] else float(summary["final"]["valid/loss"])
            points.append(Point(size=rung.size, atom_rate=rate, pair_rate=rate * pair, loss=loss))
    return points


def lowest(x_N2: Float64, y_N: Float64) -> tuple[Float64, Float64]:
    """Fit a quadratic to values at N places; return its lowest point [2], NaN if it has none, and its values [N]."""
    middle_2 = x_N2.mean(0)
    a_N, b_N = (x_N2 - middle_2).T
    terms_NT = np.stack([np.ones_like(a_N), a_N, b_N, a_N**2, a_N * b_N, b_N**2], axis=1)
    weight_T, *_ = np.linalg.lstsq(terms_NT, y_N, rcond=None)
    curvature_22 = np.array([[2 * weight_T[3], weight_T[4]], [weight_T[4], 2 * weight_T[5]]])
    if np.linalg.eigvalsh(curvature_22)[0] <= 0:
        return np.full(2, np.nan), terms_NT @ weight_T
    return middle_2 - np.linalg.solve(curvature_22, weight_T[1:3]), terms_NT @ weight_T


def best_rates(size: str, points: Sequence[Point], random: np.random.Generator) -> BestRates:
    """Return the best rates of one size, from its runs that did not diverge."""
    own = [point for point in points if point.size == size and math.isfinite(point.loss)]
    x_N2 = np.log2([[point.atom_rate, point.pair_rate] for point in own])
    y_N = np.log([point.loss for point in own])
    best_2, fitted_N = lowest(x_N2, y_N)
    if (best_2 < x_N2.min(0)).any() or (best_2 > x_N2.max(0)).any():  # extrapolated: wider sweeps are needed
        best_2 = np.full(2, np.nan)
    residual_N = (y_N - fitted_N) * math.sqrt(len(y_N) / max(1, len(y_N) - _TERMS))
    drawn = [lowest(x_N2, fitted_N + random.choice(residual_N, len(y_N)))[0] for _ in range(DRAWS)]
    drawn_B2 = np.array([one for one in drawn if np.isfinite(one).all()]).reshape(-1, 2)
    return BestRates(size=size, best_2=best_2, drawn_B2=drawn_B2, share=len(drawn_B2) / DRAWS)


def slopes(found: Sequence[BestRates], random: np.random.Generator) -> tuple[Float64, Float64]:
    """Return factor of both best rates for each doubling of the parameters, [2], and the factors of draws, [B, 2]."""
    logs_S = np.log2([count_parameters(preset(one.size)).total for one in found])

    def slope(best_S2: Float64) -> Float64:
        centred_S = logs_S - logs_S.mean()
        return np.asarray(2 ** (centred_S @ best_S2 / (centred_S @ centred_S)), np.float64)

    drawn = [slope(np.stack([one.drawn_B2[random.integers(len(one.drawn_B2))] for one in found])) for _ in range(DRAWS)]
    return slope(np.stack([one.best_2 for one in found])), np.array(drawn)


def described(value: float, drawn_B: Float64, form: str) -> str:
    """Return a value with the 90 % interval of its draws."""
    low, high = np.quantile(drawn_B, [0.05, 0.95])
    return f"{value:{form}} ({low:{form}} to {high:{form}})"


def draw(path: Path, points: Sequence[Point], found: Sequence[BestRates]) -> None:
    """Draw the mean loss of every pair of rates for each size, and its best rates with their 90 % intervals."""
    figure = Figure(figsize=(4.2 * len(found), 3.8), layout="constrained")
    for axes, one in zip(np.atleast_1d(figure.subplots(1, len(found))), found, strict=True):
        losses: dict[tuple[float, float], list[float]] = {}
        for point in points:
            if point.size == one.size:
                losses.setdefault((point.atom_rate, point.pair_rate), []).append(point.loss)
        mean = {rates: float(np.mean(values)) for rates, values in losses.items()}
        least = min(mean.values())
        x, y = np.array(list(mean)).T
        worse = [100 * (value / least - 1) for value in mean.values()]
        shown = axes.scatter(x, y, c=np.minimum(worse, 15.0), cmap="viridis_r", s=120, vmin=0, vmax=15)
        for at_x, at_y, value in zip(x, y, worse, strict=True):
            axes.annotate(f"{value:.1f}", (at_x, at_y), xytext=(7, 5), textcoords="offset points", fontsize=7)
        if np.isfinite(one.best_2).all():
            low_2, high_2 = np.quantile(2**one.drawn_B2, [0.05, 0.95], axis=0)
            best_2 = 2**one.best_2
            axes.errorbar(
                *best_2,
                xerr=np.abs([[best_2[0] - low_2[0]], [high_2[0] - best_2[0]]]),
                yerr=np.abs([[best_2[1] - low_2[1]], [high_2[1] - best_2[1]]]),
                fmt="P", color="C3", capsize=3,
            )  # fmt: skip
        axes.axline((x.min(), x.min()), (x.max(), x.max()), color="0.6", linewidth=0.8, linestyle="--")
        axes.set(xscale="log", yscale="log", title=one.size, xlabel="rate of the atom track and the rest")
    figure.axes[0].set_ylabel("rate of the pair track")
    figure.colorbar(shown, ax=figure.axes, label="loss above the lowest, %")
    save_figure(figure, path)


def report(points: Sequence[Point], options: argparse.Namespace) -> str:
    """Return everything as Markdown, and draw the picture beside the report."""
    random = np.random.default_rng(0)
    found = [best_rates(size, points, random) for size in options.size]
    usable = [one for one in found if np.isfinite(one.best_2).all() and one.share >= 0.5]
    rows = []
    for one in found:
        if one in usable:
            (atom, pair), (atom_B, pair_B) = one.best_2, one.drawn_B2.T
            logs = [(atom, atom_B), (pair, pair_B), (pair - atom, pair_B - atom_B)]
            cells = [described(2**value, 2**drawn_B, ".2g") for value, drawn_B in logs]
        else:
            cells = ["none within the sweep", "none within the sweep", ""]
        rows.append([one.size, *cells, f"{one.share:.0%}"])
    columns = ["size", "best rate, atom track and the rest", "best rate, pair track", "ratio", "draws"]
    lines = [
        "# Learning rates of the two tracks, apart",
        "",
        f"- {datetime.datetime.now(datetime.UTC).date()}, {processor()}: `{as_started(COMMAND)}`",
        f"- Muon, {options.molecules:,} molecules in batches of 32, seeds {', '.join(map(str, options.seeds))}",
        "- 90 % intervals by resampled residuals of a quadratic in the logarithms of both rates; the last column says "
        "how many of the draws have a lowest point",
        "",
        *markdown_table(columns, rows),
        "",
    ]
    if len(usable) > 1:
        factor_2, drawn_B2 = slopes(usable, random)
        names = ("atom track and the rest", "pair track")
        lines += [
            "Each doubling of the parameters multiplies the best rate by",
            "",
            *markdown_table(
                ["rate", "factor"],
                [[name, described(factor_2[at], drawn_B2[:, at], ".2f")] for at, name in enumerate(names)],
            ),
            "",
        ]
    if options.output is not None:
        picture = options.output.with_suffix(".png")
        picture.parent.mkdir(parents=True, exist_ok=True)
        draw(picture, points, found)
        lines += [f"![Loss at every pair of rates for each size, and the best rates]({picture.name})", ""]
    losses = [[point.size, f"{point.atom_rate:.3g}", f"{point.pair_rate:.3g}", f"{point.loss:.4f}"] for point in points]
    return "\n".join(
        [*lines, "## All runs", "", *markdown_table(["size", "atom rate", "pair rate", "loss"], losses), ""]
    )


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = module_parser(COMMAND, __doc__ or "")
    parser.add_argument("--data", type=Path, required=True, metavar="STORE", help="conformer store")
    parser.add_argument("--size", nargs="+", choices=list(RATES), default=["0.03M", "0.1M", "0.3M"])
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[0.5, 1.0, 2.0], help="factors on the middle rate of a size"
    )
    parser.add_argument(
        "--pair-rates", type=float, nargs="+", default=[0.25, 0.5, 1.0, 2.0, 4.0],
        help="rates of the pair track, relative to the atom track's",
    )  # fmt: skip
    parser.add_argument("--molecules", type=int, default=9600, help="molecules of a run (default: 9600)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR")
    parser.add_argument("--output", type=Path, metavar="FILE.md", help=f"the report, such as {RESULTS.name}/FILE.md")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 2 for an error that the user can correct."""
    options = build_parser().parse_args(argv)
    try:
        return exit_status(lambda: deliver(report(trained(options), options), options.output))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
