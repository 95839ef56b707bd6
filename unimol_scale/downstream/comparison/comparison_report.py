"""Writes a comparison of cross-validations as a Markdown file, with a plot of the intervals beside it."""

from pathlib import Path

from matplotlib.figure import Figure

from unimol_scale.common.files import commit_text
from unimol_scale.common.report.pictures import BLUE, GREY, draw_grid, save_figure
from unimol_scale.downstream.comparison.compare import Comparison
from unimol_scale.errors import ConfigError


def write_comparison(path: Path, comparison: Comparison) -> None:
    """Write the comparison to ``path`` (.md), and the plot beside it (.png).

    Raises:
        ConfigError: the name does not end in .md, or the file cannot be written.
    """
    if path.suffix != ".md":
        raise ConfigError(f"--output {path}: the name must end in .md; the plot has the same name with .png")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_intervals(path.with_suffix(".png"), comparison)
        commit_text(path, "\n".join(_lines(path, comparison)) + "\n")
    except OSError as error:
        raise ConfigError(f"--output {path} cannot be written: {error.strerror or error}") from error


def _lines(path: Path, comparison: Comparison) -> list[str]:
    better = "higher" if comparison.higher_is_better else "lower"
    factor = f"(1/{comparison.folds} + {comparison.test_to_train:.3g})"
    return [
        f"# {comparison.data}: {comparison.headline()}",
        "",
        f"{comparison.metric} ({better} is better), {comparison.described_folds}. Every molecule was tested once in "
        "each repeat, in the same fold for all results.",
        "",
        *comparison.result_table(),
        "",
        f"![]({path.with_suffix('.png').name})",
        "",
        *comparison.pair_table(),
        "",
        "## How to read it",
        "",
        "- A difference is called significant if its 95 % interval excludes 0. The intervals are Tukey's, after a "
        "repeated-measures analysis of variance whose blocks are the folds (Ash et al., J. Chem. Inf. Model. 2025). "
        "They hold for all pairs simultaneously.",
        "- Folds share training molecules, so they are not independent. The variance of a mean over folds is therefore "
        f"taken as {factor} times that of one fold; the second number is the ratio of test rows to training and "
        "validation rows (Nadeau and Bengio 2003). The uncorrected interval is too narrow; it is shown because other "
        "studies report it.",
        f"- p-value of no difference between any of the results: {comparison.p:.2g}; without the correction "
        f"{comparison.uncorrected_p:.2g}.",
        "- The effect size is the mean difference divided by the standard deviation of the differences of the folds.",
        "- The interval over molecules comes from a bootstrap that draws the test molecules with all their rows and "
        "repeats, and keeps the models fixed. It is computed for each pair separately, and does not include the effect "
        "of training on other molecules.",
        "- No interval says anything about molecules unlike those in this data, or whether a difference is large "
        "enough to matter.",
    ]


def draw_intervals(path: Path, comparison: Comparison) -> None:
    """Plot the difference of every pair with its simultaneous interval: blue if it excludes 0, else grey."""
    pairs = comparison.pairs
    figure = Figure(figsize=(8.0, 1.5 + 0.42 * len(pairs)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0.0, color="black", lw=1)
    for place, pair in enumerate(pairs):
        colour = BLUE if pair.is_sure else GREY
        axes.plot((pair.interval.low, pair.interval.high), (place, place), color=colour, lw=1.5)
        axes.plot((pair.uncorrected.low, pair.uncorrected.high), (place, place), color=colour, lw=5, alpha=0.35)
        axes.plot(pair.difference, place, "o", color=colour, ms=6)
    names = [f"{comparison.names[pair.better]} − {comparison.names[pair.worse]}" for pair in pairs]
    axes.set_yticks(range(len(pairs)), names, parse_math=False)
    axes.set_ylim(len(pairs) - 0.5, -0.5)
    unit = f" ({comparison.unit})" if comparison.unit else ""
    better = "right" if comparison.higher_is_better else "left"
    axes.set_xlabel(
        f"difference of {comparison.metric}{unit}; better to the {better} of 0\n"
        "line: 95 % for all pairs together, corrected\n"
        "band: without the correction; blue: significant",
        parse_math=False,
    )
    draw_grid(axes, "x")
    save_figure(figure, path)
