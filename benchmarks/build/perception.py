"""How often bonds perceived from coordinates agree with the data set: a round trip over molecules with known SMILES.

    python -m benchmarks.build.perception qm9=qm9.parquet pcqm4mv2=pcqm4m-v2.csv --sample 2000 500

For each molecule of a data set (its source and its file), elements and coordinates alone go through the builder's
curation, and the canonical SMILES that comes out is compared with the one that the data set's own reader gives. Stereo
is compared where the data set's SMILES gives any. Every miss is counted by its kind. Writes a table in Markdown.
"""

import argparse
import collections
import dataclasses
import datetime
import time
from collections.abc import Sequence
from pathlib import Path

from rdkit import Chem, rdBase

from benchmarks.common import RESULTS, as_started, deliver, module_parser, processor
from conformer_gen.chemistry.bonds.atom_matching import match_graphs
from conformer_gen.chemistry.config import CurateConfig
from conformer_gen.chemistry.curate import Curated, curate_molecule
from conformer_gen.chemistry.geometry import parse_row
from conformer_gen.sources.config import SourceConfig
from conformer_gen.sources.molecule import Geometry, Rejected, SourceMolecule
from conformer_gen.sources.reader import read_source
from unimol_scale.store.schema import ConformerOrigin

COMMAND = "python -m benchmarks.build.perception"
SAME, NOT_COMPARED = "the same canonical SMILES", "no molecule for the data set's own reader"
KINDS = {
    "radicals": "the data set's SMILES has unpaired electrons",
    "stereo": "another stereoisomer",
    "resonance": "another resonance form of the same molecule",
    "orders": "the same atoms, bonds and hydrogens, other bond orders or charges",
    "graph": "other bonds between the atoms",
    "rejected": "rejected",
}
EXAMPLES = 5
MOST_FORMS = 200


@dataclasses.dataclass
class Tally:
    """What was found for one data set: kind → molecules, seconds of curation, and some misses of each kind."""

    counts: collections.Counter[str]
    seconds: float
    examples: dict[str, list[str]]


def measure(name: str, path: Path, sample: int | None, seed: int) -> Tally:
    """Compare the molecules of a data set."""
    tally = Tally(collections.Counter(), 0.0, collections.defaultdict(list))
    for row in read_source(SourceConfig(name=name, input=(str(path),), sample=sample), seed=seed):
        known = curate_molecule(row, CurateConfig())
        molecule = parse_row(row)
        if not isinstance(known, Curated) or isinstance(molecule, Rejected):
            tally.counts[NOT_COMPARED] += 1
            continue
        began = time.process_time()
        found = curate_molecule(without_bonds(molecule), CurateConfig())
        tally.seconds += time.process_time() - began
        kind = compare(known.smiles, found)
        tally.counts[kind] += 1
        if kind != SAME and len(tally.examples[kind]) < EXAMPLES:
            text = found.smiles if isinstance(found, Curated) else f"{found.reason}: {found.detail}"
            tally.examples[kind].append(f"`{known.smiles}` → `{text}`")
    return tally


def without_bonds(molecule: Chem.Mol) -> SourceMolecule:
    """Return a row with the elements and coordinates of a molecule, and nothing else."""
    positions = molecule.GetConformer().GetPositions()[None].astype("float32")
    symbols = tuple(atom.GetSymbol() for atom in molecule.GetAtoms())
    return SourceMolecule(
        id="", geometry=Geometry(symbols=symbols, positions=positions, origins=(ConformerOrigin.DFT,))
    )


def compare(known: str, found: Curated | Rejected) -> str:
    """Return a key of ``KINDS``, or ``SAME``."""
    if isinstance(found, Rejected):
        return "rejected"
    ours, theirs = Chem.MolFromSmiles(found.smiles), Chem.MolFromSmiles(known)
    flat = [Chem.MolToSmiles(molecule, isomericSmiles=False) for molecule in (ours, theirs)]
    if found.smiles == known or (flat[0] == flat[1] == known):
        return SAME
    if flat[0] == flat[1]:
        return "stereo"
    if any(atom.GetNumRadicalElectrons() for atom in theirs.GetAtoms()):
        return "radicals"
    if any(Chem.MolToSmiles(form) == found.smiles for form in Chem.ResonanceMolSupplier(theirs, maxStructs=MOST_FORMS)):
        return "resonance"
    return "orders" if match_graphs(ours, theirs) else "graph"


def table(tallies: dict[str, Tally]) -> str:
    """Return the Markdown table, and examples of every kind of miss."""
    lines = [f"| | {' | '.join(tallies)} |", f"|---|{'---|' * len(tallies)}"]
    compared = {name: sum(t.counts.values()) - t.counts[NOT_COMPARED] for name, t in tallies.items()}
    closed = {name: compared[name] - t.counts["radicals"] for name, t in tallies.items()}
    cells = {"molecules compared": [f"{compared[name]:,}" for name in tallies]}
    cells[SAME] = [f"{t.counts[SAME]:,} ({t.counts[SAME] / compared[name]:.2%})" for name, t in tallies.items()]
    cells["of those without unpaired electrons"] = [f"{t.counts[SAME] / closed[n]:.2%}" for n, t in tallies.items()]
    for kind, words in KINDS.items():
        cells[words] = [f"{t.counts[kind]:,}" for t in tallies.values()]
    cells[NOT_COMPARED] = [f"{t.counts[NOT_COMPARED]:,}" for t in tallies.values()]
    cells["ms a molecule, curation in all"] = [f"{1e3 * t.seconds / compared[n]:.1f}" for n, t in tallies.items()]
    lines += [f"| {words} | {' | '.join(values)} |" for words, values in cells.items()]
    for name, tally in tallies.items():
        for kind, examples in tally.examples.items():
            lines += ["", f"{name}, {KINDS[kind]} (data set → perceived):", "", *(f"- {one}" for one in examples)]
    return "\n".join(lines)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = module_parser(COMMAND, __doc__ or "")
    parser.add_argument("sets", nargs="+", metavar="SOURCE=FILE")
    parser.add_argument(
        "--sample", type=int, nargs="*", default=[], help="molecules to draw from each set (default: all)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS / "bond_perception.md")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all sets and write the table."""
    options = build_parser().parse_args(arguments)
    samples = options.sample or [None] * len(options.sets)
    tallies = {}
    with rdBase.BlockLogs():
        for text, sample in zip(options.sets, samples, strict=True):
            name, _, path = text.partition("=")
            tallies[name] = measure(name, Path(path), sample, options.seed)
    head = [
        "# Bonds perceived from coordinates",
        "",
        f"- {datetime.datetime.now(tz=datetime.timezone.utc):%Y-%m-%d}, one core of {processor()}",
        f"- RDKit {rdBase.rdkitVersion}",
        f"- `{as_started(COMMAND)}`",
        "- elements and coordinates alone, hydrogens included; no charge; stereo compared where the data set gives it",
        "",
    ]
    deliver("\n".join([*head, table(tallies), ""]), options.output)


if __name__ == "__main__":
    main()
