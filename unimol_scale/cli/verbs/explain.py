"""The verb ``explain``: arguments and printing. Imports the rest only when it runs."""

import argparse
from pathlib import Path
from typing import Any

from unimol_scale.common.machine.memory import keep_freed_memory


def add_verbs(verbs: Any) -> None:  # noqa: ANN401
    """Declare the verb.

    Args:
        verbs: what ``ArgumentParser.add_subparsers`` returned.
    """
    text = "show which atoms a fine-tuned model's predictions come from, as pictures and a table"
    how = (
        "Each atom in turn is hidden from the model, with its hydrogens, by the mask of its pretraining; what the "
        "prediction loses is the atom's. The folder gets explanations.html, which holds all pictures, explanations.md, "
        "molecules/ with an SVG of each, and attributions.csv with a line for every atom."
    )
    verb = verbs.add_parser("explain", help=text, description=f"{text}. {how}")
    add = verb.add_argument
    add("folder", type=Path, metavar="MODEL", help="folder that finetune wrote")
    add("file", metavar="INPUT", help="CSV, TSV, Parquet, SMILES lines, SDF, a conformer store, or one SMILES")
    add("--output", type=Path, required=True, metavar="DIR", help="is made")
    add("--smiles-column", metavar="C", help="found by the usual names if not given")
    add("--conformers", type=int, metavar="K", help="of each molecule (default: as the model was fine-tuned)")
    add("--skip-bad", action="store_true", help="list unusable molecules in skipped.csv and go on")
    add("--cache", type=Path, default=Path("data/cache"), metavar="DIR", help="of conformers (default: %(default)s)")
    add("--max-pairs", type=int, metavar="N", help="memory budget in padded pairs (default: what suits the device)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: %(default)s)")
    verb.set_defaults(run=_run, stopped="Stopped. Conformers that are ready are kept; nothing else was written.")


def _run(arguments: argparse.Namespace) -> int:
    from unimol_scale.api.molecule_inputs import file_or_smiles
    from unimol_scale.common.output_checks import require_folder
    from unimol_scale.downstream.compute import use_granted_cores
    from unimol_scale.downstream.explanation.explain import explain_molecules
    from unimol_scale.downstream.explanation.explanation_files import write_explanations

    keep_freed_memory()
    use_granted_cores()
    require_folder(arguments.output)
    found = explain_molecules(
        file_or_smiles(arguments.file, None),
        arguments.folder,
        smiles_column=arguments.smiles_column,
        skip_bad=arguments.skip_bad,
        cache=arguments.cache,
        max_pairs=arguments.max_pairs,
        device_name=arguments.device,
        conformers=arguments.conformers,
    )
    print(write_explanations(arguments.output, found))
    return 0
