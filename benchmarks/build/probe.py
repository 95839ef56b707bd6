"""Run a build in a process of its own and watch it from outside: its rate and its memory. Linux only (/proc).

    python -m benchmarks.build.probe CONFIG.yaml [--cheap]

builds a store. With --cheap conformers are random numbers, which costs almost nothing: what remains is the builder
itself.
"""

import argparse
import itertools
import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rdkit import Chem

from benchmarks.common import again, module_parser
from conformer_gen.chemistry.config import ConformerConfig
from conformer_gen.chemistry.conformers import CuratedMolecule, generate_conformers
from conformer_gen.chemistry.graph import molecule_graph
from conformer_gen.config import BuildConfig
from conformer_gen.report.progress_samples import SAMPLES_NAME
from conformer_gen.run import driver
from conformer_gen.run.workspace import WORK_NAME
from unimol_scale import config as strict
from unimol_scale.store.schema import ConformerOrigin, ConformerStereo, MoleculeRecord

COMMAND = "python -m benchmarks.build.probe"

POLL_S = 0.2
# Of the molecules of a stage: before and after, processes start and run out of work.
STEADY = (0.1, 0.9)


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What was seen of one build.

    Attributes:
        seconds: from start to end.
        samples: stage → (seconds, molecules done).
        peak_bytes: largest resident set of the driver's process.
        anonymous_bytes: largest part of it that is not a file's.
    """

    seconds: float
    samples: dict[str, list[tuple[float, int]]]
    peak_bytes: int
    anonymous_bytes: int

    def rate(self, stage: str) -> float | None:
        """Return molecules/s of a stage at steady state, None if it was too short for one."""
        return steady_rate(self.samples[stage])


def watch_build(config: BuildConfig, cheap: bool = False) -> Watched:
    """Build a store in a fresh process.

    Raises:
        SystemExit: the build failed.
    """
    folder = config.directory
    folder.parent.mkdir(parents=True, exist_ok=True)
    settings, log = folder.with_suffix(".yaml"), folder.with_suffix(".log")
    settings.write_text(json.dumps(strict.to_tree(config)))  # JSON is YAML
    command, environment = again(COMMAND, [str(settings), *(["--cheap"] if cheap else [])])
    progress = folder / WORK_NAME / SAMPLES_NAME
    began, peak, anonymous, lines = time.monotonic(), 0, 0, ""
    with (
        log.open("w") as output,
        subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT) as process,
    ):
        while process.poll() is None:
            resident = _resident_bytes(process.pid)
            peak, anonymous = max(peak, resident["VmHWM"]), max(anonymous, resident["RssAnon"])
            lines = _read_text(progress) or lines
            time.sleep(POLL_S)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}:\n{log.read_text()[-2000:]}")
    return Watched(
        seconds=time.monotonic() - began, samples=read_samples(lines), peak_bytes=peak, anonymous_bytes=anonymous
    )


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:  # not there yet, or removed at the end
        return ""


def _resident_bytes(pid: int) -> dict[str, int]:
    """Return the peak (VmHWM) and the present anonymous part (RssAnon) of a process; zeros once it has ended."""
    fields = dict.fromkeys(("VmHWM", "RssAnon"), 0)
    for line in _read_text(Path(f"/proc/{pid}/status")).splitlines():
        name, _, value = line.partition(":")
        if name in fields:
            fields[name] = int(value.split()[0]) * 1024
    return fields


def read_samples(text: str) -> dict[str, list[tuple[float, int]]]:
    """Return stage → (seconds, molecules) of the complete lines of progress.jsonl."""
    samples: dict[str, list[tuple[float, int]]] = {}
    for line in text.splitlines(keepends=True):
        if line.endswith("\n"):
            sample = json.loads(line)
            samples.setdefault(sample["stage"], []).append((sample["seconds"], sample["molecules"]))
    return samples


def steady_rate(samples: Sequence[tuple[float, int]]) -> float | None:
    """Return molecules/s in the middle of a stage: the slope of the line through its samples.

    Only samples at which molecules were added count, since those in between tell of tasks that are half done.
    Returns None if there are fewer than two.
    """
    total = samples[-1][1]
    steps = [(s, n) for (_, before), (s, n) in itertools.pairwise(samples) if n > before]
    middle = np.array([(s, n) for s, n in steps if STEADY[0] * total <= n <= STEADY[1] * total])
    return float(np.polyfit(middle[:, 0], middle[:, 1], 1)[0]) if len(middle) > 1 else None


def labelled(smiles: str, number: int) -> str:
    """Return a molecule like this one and no other: its first atom takes the isotope ``number``."""
    molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        return smiles
    molecule.GetAtomWithIdx(0).SetIsotope(number)
    return Chem.MolToSmiles(molecule)


def place_at_random(molecule: CuratedMolecule, config: ConformerConfig, seed: int) -> MoleculeRecord:
    """Return a record whose coordinates are random numbers."""
    graph = molecule_graph(Chem.MolFromSmiles(molecule.smiles))
    coordinates = np.random.default_rng(molecule.key).normal(0, 3, (1, len(graph.atomic_number), 3)).astype(np.float32)
    return MoleculeRecord(
        id=molecule.id,
        smiles=molecule.smiles,
        atomic_number=graph.atomic_number,
        atom_features=graph.atom_features,
        bond_index=graph.bond_index,
        bond_features=graph.bond_features,
        coordinates=coordinates,
        planar_coordinates=coordinates[0, :, :2],
        conformer_origin=np.array([ConformerOrigin.ETKDG], np.uint8),
        conformer_stereo=np.array([ConformerStereo.AS_GIVEN], np.uint8),
        energy=np.array([np.nan], np.float32),
        scaffold=molecule.scaffold,
        key=molecule.key,
        labels=molecule.labels,
    )


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = module_parser(COMMAND, __doc__ or "")
    parser.add_argument("config", type=Path)
    parser.add_argument("--cheap", action="store_true", help="use random numbers as coordinates")
    return parser


def main() -> None:
    """Build the store of a configuration file."""
    options = build_parser().parse_args()
    tree, origin = strict.read_yaml(options.config)
    config = strict.build(BuildConfig, tree, origin)
    print(driver.build(config, place_at_random if options.cheap else generate_conformers).describe())


if __name__ == "__main__":
    main()
