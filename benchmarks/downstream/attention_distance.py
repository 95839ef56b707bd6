"""Compare the attention of models with distances in space: which heads attend according to the distance of two atoms?

    python -m benchmarks.downstream.attention_distance data/pcqm4mv2 --model "D&D=runs/student"

This is figure 4 of Denoise and Distill. For every head, over molecules of the validation split: the absolute Pearson
correlation between its scores before the softmax (pair bias included) and the distances in the conformer, over all
ordered pairs of different atoms of a molecule, mean over molecules; and the distance at which it attends, Å: the mean
over a molecule's atoms of the distances to the other atoms, weighted by the softmax of the scores over these, mean over
molecules. Beside each model there is one of the same shape with random weights: the pair bias contains the bonds, so
even those heads show some correlation. Hydrogens are left out, as in `unimol-scale embed`.

Shapes: n atoms, C = layers · heads channels, L layers, H heads.
"""

import argparse
import dataclasses
import datetime
import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# As in every command, this comes before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import numpy.typing as npt
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.common import RESULTS, deliver, module_parser, processor
from unimol_scale.checkpoints.weights import load_pretrained
from unimol_scale.common.machine.devices import pick_device
from unimol_scale.common.machine.memory import keep_freed_memory
from unimol_scale.common.report.pictures import GREY, draw_grid, save_figure
from unimol_scale.data.hydrogens import drop_hydrogens, heavy_counts
from unimol_scale.data.input_views import InputsSeen
from unimol_scale.downstream.data.inputs import choose_inputs, require_conformers
from unimol_scale.downstream.embedding.representations import RepresentationConfig, represent
from unimol_scale.model.backbone import TwoTrackBackbone
from unimol_scale.store.schema import Float64, Int64
from unimol_scale.store.shards import Store, StoreSplit, open_store

COMMAND = "python -m benchmarks.downstream.attention_distance"

# In the paper, random weights never exceed this correlation.
PAPERS_LIMIT = 0.3
# Most layers that are named; of more, the first, the middle and the last.
MOST_IN_LEGEND = 6
FEWEST_ATOMS = 3  # with two, every pair has one distance
# Smaller spreads are rounding errors: of distances in Å, of scores relative to the largest.
SAME_DISTANCE, SAME_SCORE = 1e-3, 1e-5
BINS = np.linspace(0.0, 1.0, 41)


@dataclass(frozen=True, kw_only=True)
class HeadStatistics:
    """What was measured of the heads of a model.

    Attributes:
        correlation_LH: mean over molecules of |r|; NaN where it is undefined for every one.
        signed_LH: mean over molecules of r.
        distance_LH: the distance at which a head attends, Å.
        uniform: the distance at which a head with equal weights for all atoms would attend, Å.
        molecules: number of molecules.
    """

    correlation_LH: Float64
    signed_LH: Float64
    distance_LH: Float64
    uniform: float
    molecules: int


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A model beside one with random weights.

    Attributes:
        name: name of the model.
        inputs: the inputs that it was shown.
        trained: its heads.
        random: the heads of the model with random weights.
    """

    name: str
    inputs: str
    trained: HeadStatistics
    random: HeadStatistics


def correlations(score_nnC: npt.NDArray[np.float32], distance_nn: Float64) -> Float64:
    """Return r [C] between scores and distances over the ordered pairs of different atoms; NaN where it is undefined.

    Args:
        score_nnC: before the softmax.
        distance_nn: Å.
    """
    different_nn = ~np.eye(len(distance_nn), dtype=bool)
    score_PC = score_nnC[different_nn].astype(np.float64)
    distance_P = distance_nn[different_nn]
    largest_C = np.abs(score_PC).max(0)
    score_PC -= score_PC.mean(0)
    distance_P = distance_P - distance_P.mean()
    spread_C, spread = np.sqrt((score_PC**2).mean(0)), np.sqrt((distance_P**2).mean())
    known_C = (spread_C > SAME_SCORE * largest_C) & (spread > SAME_DISTANCE)
    covariance_C = (score_PC * distance_P[:, None]).mean(0)
    return np.where(known_C, covariance_C / np.where(known_C, spread_C * spread, 1.0), np.nan)


def attended_distances(score_nnC: npt.NDArray[np.float32], distance_nn: Float64) -> Float64:
    """Return the mean over atoms of the distance to the other atoms, weighted by attention, [C] in Å."""
    score_nnC = score_nnC.astype(np.float64)
    score_nnC[np.eye(len(distance_nn), dtype=bool)] = -np.inf
    weight_nnC = np.exp(score_nnC - score_nnC.max(1, keepdims=True))
    weight_nnC /= weight_nnC.sum(1, keepdims=True)
    attended_C: Float64 = (weight_nnC * distance_nn[:, :, None]).sum(1).mean(0)
    return attended_C


def distances(split: StoreSplit, position_R: Int64, *, hydrogens: bool) -> Iterator[Float64]:
    """Yield the distances [n, n] in Å of every molecule's first conformer, without hydrogens that the store has."""
    for position in position_R:
        columns = split.gather(np.array([position]))
        coordinates_n3 = (drop_hydrogens(columns) if hydrogens else columns).coordinates.astype(np.float64)
        yield np.linalg.norm(coordinates_n3[:, None] - coordinates_n3[None], axis=-1)


def measure(
    backbone: TwoTrackBackbone,
    store: Store,
    position_R: Int64,
    config: RepresentationConfig,
    seen: InputsSeen | None = None,
) -> HeadStatistics:
    """Measure the heads of a model over molecules of the validation split, shown as pretraining has shown them."""
    L, H = backbone.config.layers, backbone.config.heads
    split, hydrogens = store.split("valid"), store.manifest.hydrogens
    apart = distances(split, position_R, hydrogens=hydrogens)
    r_RC, attended_RC, uniform_R = [], [], []
    for arrays in represent(backbone, split, position_R, config, seen=seen, drop_hydrogens=hydrogens):
        for score_nnC in arrays:
            distance_nn = next(apart)
            r_RC.append(correlations(score_nnC, distance_nn))
            attended_RC.append(attended_distances(score_nnC, distance_nn))
            uniform_R.append(distance_nn.sum() / (len(distance_nn) * (len(distance_nn) - 1)))
    return HeadStatistics(
        correlation_LH=_mean_of_known(np.abs(r_RC)).reshape(L, H),
        signed_LH=_mean_of_known(np.array(r_RC)).reshape(L, H),
        distance_LH=np.mean(attended_RC, axis=0).reshape(L, H),
        uniform=float(np.mean(uniform_R)),
        molecules=len(position_R),
    )


def _mean_of_known(value_RC: Float64) -> Float64:
    known_RC = np.isfinite(value_RC)
    count_C = known_RC.sum(0)
    mean_C: Float64 = np.where(known_RC, value_RC, 0.0).sum(0) / np.where(count_C, count_C, 1)
    return np.where(count_C > 0, mean_C, np.nan)


def choose_molecules(store: Store, count: int, seed: int) -> Int64:
    """Return the positions of so many validation molecules, or of all, that have pairs to compare.

    Raises:
        SystemExit: there are none.
        StoreError: the store has 2D depictions only.
    """
    split = store.split("valid")
    require_conformers(split)
    order_R = np.random.default_rng(seed).permutation(len(split)).astype(np.int64)[:count]
    sizes_R = heavy_counts(split.gather(order_R)) if store.manifest.hydrogens else split.sizes(order_R)[0]
    chosen_R = np.sort(order_R[sizes_R >= FEWEST_ATOMS])
    if not len(chosen_R):
        raise SystemExit(f"error: of {count} molecules none has {FEWEST_ATOMS} atoms")
    return chosen_R


def measure_model(name: str, path: str, store: Store, arguments: argparse.Namespace) -> Measured:
    """Measure a model, and one of the same shape with random weights."""
    device = pick_device(arguments.device)
    model = load_pretrained(Path(path))
    trained = model.backbone.to(device).eval()
    torch.manual_seed(arguments.seed)
    random = TwoTrackBackbone(trained.config).to(device).eval()
    inputs = choose_inputs(arguments.inputs if trained.config.geometry else None, trained.config, model.seen).inputs
    config = RepresentationConfig(kind="attention", inputs=inputs, max_pairs=arguments.max_pairs)
    position_R = choose_molecules(store, arguments.molecules, arguments.seed)
    found, chance = (measure(backbone, store, position_R, config, model.seen) for backbone in (trained, random))
    return Measured(name=name, inputs=inputs, trained=found, random=chance)


def table(models: Sequence[Measured]) -> list[str]:
    """Return a row for each model and for each of its shape with random weights."""
    heads = ("model", "sees", "layers × heads", f"heads above {PAPERS_LIMIT}", "median r", "largest r")
    heads = (*heads, "attends at, first layer (Å)", "nearest layer (Å)", "last layer (Å)")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for model in models:
        for name, found in ((model.name, model.trained), (f"{model.name}'s shape, random weights", model.random)):
            lines.append(f"| {name} | {model.inputs} | {_row(found)} |")
    return lines


def _row(found: HeadStatistics) -> str:
    r_LH, distance_LH = found.correlation_LH, found.distance_LH
    L, H = r_LH.shape
    layer, head = np.unravel_index(int(np.nanargmax(r_LH)), r_LH.shape)
    nearest = int(distance_LH.mean(1).argmin())
    ranges = [f"{distance_LH[at].min():.2f} to {distance_LH[at].max():.2f}" for at in (0, nearest, L - 1)]
    ranges[1] += f" (layer {nearest + 1})"
    above = int((r_LH > PAPERS_LIMIT).sum())
    largest = f"{r_LH[layer, head]:.2f} (layer {layer + 1})"
    return " | ".join((f"{L} × {H}", f"{above} of {r_LH.size}", f"{np.nanmedian(r_LH):.2f}", largest, *ranges))


def draw(models: Sequence[Measured]) -> Figure:
    """Draw a row for each model: the histogram of its heads' |r|, and the distance at which they attend by layer."""
    figure = Figure(figsize=(10.4, 3.1 * len(models)), layout="constrained")
    grid = figure.subplots(len(models), 2, squeeze=False, width_ratios=(1.25, 1.0))
    for (left, right), model in zip(grid, models, strict=True):
        _draw_histogram(left, model)
        _draw_distances(right, model)
    top = max(axes.get_ylim()[1] for axes in grid[:, 1])
    for axes in grid[:, 1]:
        axes.set_ylim(0.0, 1.04 * top)
    return figure


def _draw_histogram(axes, model: Measured) -> None:  # noqa: ANN001
    L, H = model.trained.correlation_LH.shape
    colours = _colours(L)
    by_layer = [row[np.isfinite(row)] for row in model.trained.correlation_LH]
    axes.hist(by_layer, bins=BINS, stacked=True, color=colours)
    chance = model.random.correlation_LH
    axes.hist(chance[np.isfinite(chance)], bins=BINS, histtype="step", color="black", lw=1.1, label="random weights")
    axes.axvline(PAPERS_LIMIT, color=GREY, lw=0.9, ls=(0, (4, 3)))
    axes.set_xlim(0.0, 1.0)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_xlabel("correlation of scores and distances (absolute, mean over molecules)", fontsize=8)
    axes.set_ylabel("heads", fontsize=8)
    axes.set_title(f"{model.name} (sees {model.inputs}; {L} layers × {H} heads)", fontsize=9, parse_math=False)
    for layer in range(L) if L <= MOST_IN_LEGEND else sorted({0, (L - 1) // 2, L - 1}):
        axes.bar(0, 0, color=colours[layer], label=f"layer {layer + 1}")
    axes.legend(fontsize=7, frameon=False)
    axes.tick_params(labelsize=8)
    draw_grid(axes, "y")


def _draw_distances(axes, model: Measured) -> None:  # noqa: ANN001
    L, H = model.trained.distance_LH.shape
    colours, layers = _colours(L), np.arange(1, L + 1)
    shift_H = np.linspace(-0.22, 0.22, H) if H > 1 else np.zeros(1)
    for layer, distance_H in enumerate(model.trained.distance_LH):
        axes.scatter(layers[layer] + shift_H, distance_H, s=9, color=colours[layer], zorder=3)
    axes.plot(layers, model.trained.distance_LH.mean(1), color=GREY, lw=1.0, zorder=2, label="mean over heads")
    axes.plot(layers, model.random.distance_LH.mean(1), color="black", lw=1.0, ls=":", label="random weights")
    axes.axhline(model.trained.uniform, color=GREY, lw=0.9, ls=(0, (4, 3)), label="equal weights")
    axes.set_xticks(layers[:: max(1, L // 12)])
    axes.set_xlim(0.5, L + 0.5)
    axes.set_xlabel("layer", fontsize=8)
    axes.set_ylabel("attends at (Å)", fontsize=8)
    axes.set_title("mean distance, weighted by attention; a dot is a head", fontsize=9)
    axes.legend(fontsize=7, frameon=False)
    axes.tick_params(labelsize=8)
    draw_grid(axes)


def _colours(layers: int) -> list[tuple[float, float, float, float]]:
    """Return a colour for each layer, from the first one's to the last one's."""
    return [colormaps["viridis"](0.92 * at / max(layers - 1, 1)) for at in range(layers)]


def report(models: Sequence[Measured], picture: str, arguments: argparse.Namespace, command: Sequence[str]) -> str:
    """Return the Markdown."""
    device = pick_device(arguments.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU"
    some = models[0].trained
    lines = [
        "# Attention and distance",
        "",
        f"- {datetime.date.today().isoformat()}, {processor()}, {name}, torch {torch.__version__}",
        f"- `{COMMAND} {shlex.join(command)}`",
        f"- {some.molecules:,} molecules of the validation split of {arguments.store.name}, hydrogens left out; a head "
        f"with equal weights would attend at {some.uniform:.2f} Å",
        "- r: absolute Pearson correlation of a head's scores before the softmax, pair bias included, with the "
        "distances of the conformer, over all ordered pairs of different atoms of a molecule, mean over molecules",
        "- attends at: mean distance to the other atoms weighted by attention; smallest to largest of a layer's heads",
        "",
        *table(models),
        "",
        f"![correlations and distances of every head]({picture})",
    ]
    return "\n".join(lines) + "\n"


def name_and_path(text: str) -> tuple[str, str]:
    """Return both halves of NAME=PATH."""
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=PATH")
    return name, path


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = module_parser(COMMAND, __doc__ or "")
    parser.add_argument("store", type=Path, help="conformer store; its validation split is read")
    parser.add_argument("--model", type=name_and_path, action="append", required=True, metavar="NAME=PATH")
    parser.add_argument(
        "--inputs",
        choices=("2d", "3d", "2d+3d"),
        help="inputs for models that see distances (default: all that they can see)",
    )
    parser.add_argument("--molecules", type=int, default=1000, help="default: %(default)s")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed for the choice of molecules and for the random weights"
    )
    parser.add_argument("--max-pairs", type=int, help="atom pairs per micro-batch (default: chosen for the device)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--output", type=Path, default=RESULTS / "attention_distance.md", help="default: %(default)s")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every model; write the Markdown, and beside it a folder with the picture and the values of each head."""
    command = sys.argv[1:] if argv is None else argv
    arguments = build_parser().parse_args(command)
    keep_freed_memory()
    store = open_store(arguments.store)
    models = [measure_model(name, path, store, arguments) for name, path in arguments.model]
    folder = arguments.output.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    save_figure(draw(models), folder / "heads.png")
    values = json.dumps([dataclasses.asdict(model) for model in models], default=lambda array: array.tolist())
    (folder / "results.json").write_text(values + "\n", encoding="utf-8")
    deliver(report(models, f"{folder.name}/heads.png", arguments, command), arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
