"""Write the molecules of structure files and tables as tranche files, for pretraining together with those of ZINC20.

    python -m benchmarks.downstream.molecules platinum_diverse_dataset_2017_01.sdf.gz tox21.csv --output LARGER

The tranches that gains.py's first models were pretrained on end at 23 heavy atoms; most drugs are larger.
"""

import argparse
import csv
import gzip
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rdkit import Chem, rdBase

from benchmarks.common import module_parser

COMMAND = "python -m benchmarks.downstream.molecules"

FIRST_ID = 900_000_000_001  # beyond ZINC's own
KINDS = (".sdf.gz", ".csv", ".smi")


def molecules(path: Path) -> Iterator[Chem.Mol | None]:
    """Yield the molecules, without hydrogens, of a .sdf.gz, of a .csv, or of the first words of the lines of a .smi.

    None stands for a molecule that RDKit cannot read.

    Raises:
        SystemExit: a .csv has no column "smiles".
    """
    if path.name.endswith(".sdf.gz"):
        with gzip.open(path) as lines:
            yield from (molecule and Chem.RemoveAllHs(molecule) for molecule in Chem.ForwardSDMolSupplier(lines))
        return
    with path.open(encoding="utf-8", newline="") as lines:
        if path.suffix == ".csv":
            rows = csv.DictReader(lines)
            if "smiles" not in (rows.fieldnames or ()):
                raise SystemExit(f"error: {path} has no column 'smiles', but {', '.join(rows.fieldnames or ())}")
            yield from (Chem.MolFromSmiles(row["smiles"] or "") for row in rows)
        else:
            yield from (Chem.MolFromSmiles(line.split()[0]) for line in lines if line.strip())


def tranches(files: Sequence[Path], output: Path) -> dict[Path, Path]:
    """Return which file is to be written of which.

    Raises:
        SystemExit: one is missing or of no known kind, or what is to be written is there already.
    """
    written: dict[Path, Path] = {}
    for path in files:
        if not path.is_file() or not path.name.endswith(KINDS):
            raise SystemExit(f"error: {path} is no file whose name ends in {', '.join(KINDS)}")
        tranche = output / f"{path.name.split('.')[0]}.smi"
        if tranche.exists() or tranche in written:
            raise SystemExit(f"error: {tranche} is there already; choose another --output, or rename {path.name}")
        written[tranche] = path
    return written


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = module_parser(COMMAND, __doc__ or "")
    parser.add_argument("files", type=Path, nargs="+", help=".sdf.gz, .csv with a column smiles, or .smi")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write one tranche file for each file."""
    options = build_parser().parse_args(argv)
    numbers = itertools.count(FIRST_ID)
    with rdBase.BlockLogs():
        for tranche, path in tranches(options.files, options.output).items():
            found = list(molecules(path))
            readable = [molecule for molecule in found if molecule and molecule.GetNumAtoms()]
            lines = [f"{Chem.MolToSmiles(molecule)} {next(numbers)}\n" for molecule in readable]
            options.output.mkdir(parents=True, exist_ok=True)
            tranche.write_text("smiles zinc_id\n" + "".join(lines), encoding="utf-8")
            print(f"{tranche}: {len(lines):,} molecules, {len(found) - len(lines):,} that RDKit cannot read")
    return 0


if __name__ == "__main__":
    sys.exit(main())
