"""Let a model that was pretrained with blend predict the three relations of every pair, for every kind of input.

    python -m benchmarks.training.relations --data data/pcqm4mv2 --run blend=runs/84M-blend-seed0

Nothing is trained: this probes the relation heads on inputs that pretraining has shown rarely or never,
such as the whole graph, which is what fine-tuning on 2D shows. The kinds of input are the blend of pretraining, with
its noise; all three relations of every pair; path and edge of every pair; distances alone. The last three show the
clean geometry, as later uses do. Atom features and degrees are those of pretraining; where it hid some, every kind is
evaluated once more with all of them. For comparison, a constant prediction: the class frequencies for paths,
for edges those of every hop, and the median distance of the training split.
"""

import argparse
import dataclasses
import datetime
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# As every command has it, and before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch

from benchmarks.common import deliver, exit_status, module_parser, processor
from unimol_scale.checkpoints.weights import load_pretrained
from unimol_scale.common.machine.devices import pick_device
from unimol_scale.common.machine.threads import usable_cores
from unimol_scale.common.run_files import CONFIG_NAME
from unimol_scale.config import Origin, build, read_yaml
from unimol_scale.data import vocabulary as vocab
from unimol_scale.data.dataset import VALIDATION_SEED, DataConfig, open_store_of, reader_of
from unimol_scale.data.relations import NO_CLASS, different_atoms
from unimol_scale.data.steps.order import global_batch
from unimol_scale.data.steps.random_streams import MoleculeKeys
from unimol_scale.data.transfer import to_device
from unimol_scale.errors import ConfigError
from unimol_scale.model.encodings import pairwise_distances
from unimol_scale.model.model_with_heads import HeadedModel
from unimol_scale.objectives.blend import RELATIONS, BlendConfig, BlendObjective, BlendSample
from unimol_scale.objectives.config import ObjectiveConfig

COMMAND = "python -m benchmarks.training.relations"
# Molecules that are shown together; they are sorted by size.
TOGETHER = 64
ATOMS = ("as pretrained", "all shown")
HIDDEN = "blend, pairs that hide it"
CONSTANT = "constant"
UNITS = {"path": "nats", "edge": "nats", "distance": "Å"}
Errors = dict[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probed:
    """A pretrained model, and the inputs that its pretraining has shown; both from a run's folder."""

    model: HeadedModel
    blend: BlendConfig

    @property
    def edges(self) -> Any:  # noqa: ANN401
        """What its pairs are told of bonds, see ``ModelConfig``."""
        return self.model.backbone.config.edges


def read_run(folder: Path, device: torch.device) -> Probed:
    """Load the model of a run, or of its newest checkpoint.

    Raises:
        ConfigError: it was not trained with blend, or with none of the relations.
        CheckpointError: there is no model.
    """
    tree, origin = read_yaml(folder / CONFIG_NAME)
    recorded = Origin(name=origin.name, lines=origin.lines, recorded=True)
    objective = build(ObjectiveConfig, tree.get("objective", {}), recorded, "objective")
    model = load_pretrained(folder).to(device)
    if "blend" not in objective.learnt or not model.heads.relations:
        raise ConfigError(f"{folder}: its objective is {objective.name}, and only blend predicts relations")
    return Probed(model=model, blend=objective.blend)


def kinds_of_input(probed: Probed) -> dict[str, BlendConfig]:
    """Return kind of input → settings that show it and predict what the model has heads for, with weight 1."""
    weights = {f"{name}_weight": float(name in probed.model.heads.relations) for name in RELATIONS}
    blend = dataclasses.replace(probed.blend, **weights, noise_weight=0.0, distance_loss="l1")
    clean = dataclasses.replace(blend, noise_std=0.0, mask_fraction=0.0, full_fraction=0.0, planar_fraction=0.0)
    kinds = {
        "blend": blend,
        "2D + 3D": dataclasses.replace(clean, full_fraction=1.0),
        "2D": dataclasses.replace(clean, planar_fraction=1.0),
        "3D": dataclasses.replace(clean, ratio=(0.0, 0.0, 1.0)),
    }
    sees_space = probed.model.backbone.config.geometry
    return {name: config for name, config in kinds.items() if sees_space or not config.shows_distances}


def samples(objective: BlendObjective, data: DataConfig, split: str, num_molecules: int) -> Iterator[BlendSample]:
    """Yield random molecules of a split, always the same, with the corruptions of validation."""
    reader = reader_of(data, split)
    molecule_R, _ = global_batch(len(reader), min(num_molecules, len(reader)), VALIDATION_SEED, 0)
    molecule_R = molecule_R[np.argsort(reader.num_atoms(molecule_R), kind="stable")]
    for start in range(0, len(molecule_R), TOGETHER):
        molecule_B = molecule_R[start : start + TOGETHER]
        keys = MoleculeKeys(seed=VALIDATION_SEED, epoch_B=np.zeros_like(molecule_B), molecule_B=molecule_B)
        yield objective.corrupt(reader.read(keys), keys)


@torch.no_grad()
def errors(probed: Probed, config: BlendConfig, data: DataConfig, num_molecules: int) -> tuple[Errors, Errors]:
    """Return relation → mean error over all pairs (path), hops (edge) or pairs (distance), and over what is hidden."""
    objective = BlendObjective(config, probed.edges)
    device = next(probed.model.parameters()).device
    sums, counts = dict.fromkeys(objective.weights, 0.0), dict.fromkeys(objective.weights, 0.0)
    for sample in samples(objective, data, "valid", num_molecules):
        for term, value in objective.score(probed.model, to_device(sample, device)).items():
            sums[term] += value.item()
            counts[term] += sample.counts[term]
    mean = {term: sums[term] / counts[term] for term in sums if counts[term]}
    of_all = {name: mean[name] for name in RELATIONS if name in mean}
    return of_all, {name: mean[f"hidden_{name}"] for name in RELATIONS if f"hidden_{name}" in mean}


def targets(probed: Probed, data: DataConfig, split: str, num_molecules: int) -> Mapping[str, np.ndarray]:
    """Return all that is to be predicted in a split: path classes [T], edge classes [T, hops], distances [T] in Å."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in RELATIONS}
    objective = BlendObjective(kinds_of_input(probed)["2D"], probed.edges)
    for sample in samples(objective, data, split, num_molecules):
        path_BAA, edge_BAAS = sample.path_BAA.numpy(), sample.edge_BAAS.numpy()
        pairs_BAA = different_atoms(sample.input.valid_BA.numpy())
        found["path"].append(path_BAA[path_BAA != NO_CLASS])
        found["edge"].append(edge_BAAS[pairs_BAA])
        found["distance"].append(pairwise_distances(sample.clean_BA3).numpy()[pairs_BAA])
    return {name: np.concatenate(parts) for name, parts in found.items()}


def constant_errors(train: Mapping[str, np.ndarray], valid: Mapping[str, np.ndarray]) -> Errors:
    """Return the errors of who says the same of every pair: class frequencies, and the median distance, of ``train``.

    A class that does not occur in the training molecules counts as occurring once.
    """

    def nats(seen: np.ndarray, asked: np.ndarray, classes: int) -> np.ndarray:
        counts = np.maximum(np.bincount(seen[seen != NO_CLASS], minlength=classes), 1)
        return -np.log(counts / counts.sum())[asked[asked != NO_CLASS]]

    hops = [nats(train["edge"][:, s], valid["edge"][:, s], vocab.NUM_EDGE_CLASSES) for s in range(vocab.NUM_HOPS)]
    return {
        "path": float(nats(train["path"], valid["path"], vocab.NUM_PATH_CLASSES).mean()),
        "edge": float(np.concatenate(hops).mean()),
        "distance": float(np.abs(valid["distance"] - np.median(train["distance"])).mean()),
    }


def rows_of(name: str, probed: Probed, data: DataConfig, options: argparse.Namespace) -> list[str]:
    """Evaluate one model; return its lines of the table."""
    train = targets(probed, data, "train", options.train_molecules)
    valid = targets(probed, data, "valid", options.molecules)
    lines = [_line(name, CONSTANT, "", constant_errors(train, valid))]
    shows_all = probed.blend.atom_features == "all" and probed.blend.show_degree
    for atoms in ATOMS[:1] if shows_all else ATOMS:
        for kind, config in kinds_of_input(probed).items():
            print(f"relations: {name}, {kind}, atoms {atoms}", file=sys.stderr, flush=True)
            if atoms == "all shown":
                config = dataclasses.replace(config, atom_features="all", show_degree=True)
            of_all, of_hidden = errors(probed, config, data, options.molecules)
            lines.append(_line(name, kind, atoms, of_all))
            if kind == "blend":
                lines.append(_line(name, HIDDEN, atoms, of_hidden))
    return lines


def _line(name: str, kind: str, atoms: str, found: Errors) -> str:
    values = (f"{found[relation]:.3f}" if relation in found else "" for relation in RELATIONS)
    return f"| {name} | {kind} | {atoms} | {' | '.join(values)} |"


def report(options: argparse.Namespace) -> str:
    """Evaluate every model and return the Markdown.

    Raises:
        UnimolScaleError: a run is not one of blend, or the store or a model cannot be read.
    """
    device = pick_device(options.device)
    data = DataConfig(path=str(options.data), conformers="first", hydrogens=options.hydrogens)
    store = open_store_of(data)
    runs = {name: read_run(folder, device) for name, folder in options.run.items()}
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU used"
    machine = f"{processor()}, {torch.get_num_threads()} of {usable_cores()} cores, {where}, torch {torch.__version__}"
    asked = min(options.molecules, len(store.split("valid")))
    lines = [
        "# Relations of pairs of atoms, predicted by pretrained models",
        "",
        f"- {datetime.datetime.now(datetime.UTC).date()}, {machine}",
        f"- `{COMMAND} {shlex.join(options.given)}`",
        f"- {asked:,} validation molecules of the store with manifest {store.manifest_sha256[:12]}; the constant is of "
        f"{min(options.train_molecules, len(store.split('train'))):,} training molecules",
        *(f"- {name}: {_description(probed)}" for name, probed in runs.items()),
        "",
        "Means over pairs of atoms; for edges, over the hops of their paths.",
        "",
        f"| run | shown | atoms | {' | '.join(f'{relation}, {unit}' for relation, unit in UNITS.items())} |",
        "|---|---|---|---|---|---|",
        *(line for name, probed in runs.items() for line in rows_of(name, probed, data, options)),
    ]
    return "\n".join(lines) + "\n"


def _description(probed: Probed) -> str:
    blend, parameters = probed.blend, sum(p.numel() for p in probed.model.parameters())
    ratio = ":".join(f"{share:g}" for share in blend.ratio)
    return (
        f"{parameters:,} parameters; model.edges {probed.edges}, ratio {ratio}, mask {blend.mask_fraction:g}, full "
        f"{blend.full_fraction:g}, planar {blend.planar_fraction:g}, symmetric {str(blend.symmetric).lower()}, atom "
        f"features {blend.atom_features}, degree {'shown' if blend.show_degree else 'hidden'}, heads {blend.heads}"
    )


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = module_parser(COMMAND, __doc__ or "")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the conformer store")
    parser.add_argument(
        "--run",
        type=_named_folder,
        action="append",
        required=True,
        metavar="NAME=DIR",
        help="a run of blend; may be repeated",
    )
    parser.add_argument("--molecules", type=int, default=2000, help="molecules of the validation split to use")
    parser.add_argument(
        "--train-molecules",
        type=int,
        default=5000,
        metavar="N",
        help="training molecules from which the constant prediction is computed",
    )
    parser.add_argument("--hydrogens", choices=("as_stored", "drop"), default="as_stored")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--output", type=Path, help="such as benchmarks/results/relations.md; default: standard output")
    return parser


def _named_folder(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=DIR, such as blend=runs/84M-blend-seed0")
    return name, Path(folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print, or write, its report; return the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = build_parser().parse_args(given)
    options.given, options.run = given, dict(options.run)
    return exit_status(lambda: deliver(report(options), options.output))


if __name__ == "__main__":
    sys.exit(main())
