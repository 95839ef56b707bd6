"""The verb ``explain``: arguments and printing. Imports the rest only when it runs."""

import argparse
from pathlib import Path
from typing import Any

from unimol_scale.cli.command_line import as_sentence, declare_computing
from unimol_scale.common.machine.memory import keep_freed_memory


def add_verbs(verbs: Any) -> None:  # noqa: ANN401
    """Declare the verb.

    Args:
        verbs: what ``ArgumentParser.add_subparsers`` returned.
    """
    text = "show which atoms a fine-tuned model's predictions depend on, as pictures and a table"
    how = (
        "Each atom in turn, with its hydrogens, is hidden by the mask token of pretraining; the change of the "
        "prediction is attributed to that atom. The output folder receives explanations.html with all pictures, "
        "explanations.md, molecules/ with an SVG file per molecule, and attributions.csv with one line per atom."
    )
    verb = verbs.add_parser("explain", help=text, description=f"{as_sentence(text)} {how}")
    add = verb.add_argument
    add("folder", type=Path, metavar="MODEL", help="folder that finetune wrote")
    add("file", metavar="INPUT", help="CSV, TSV, Parquet, SMILES lines, SDF, a conformer store, or one SMILES")
    add("--output", type=Path, required=True, metavar="DIR", help="folder to write; made if it is missing")
    add("--smiles-column", metavar="C", help="column of the SMILES (default: found by common names)")
    add("--conformers", type=int, metavar="K", help="conformers per molecule (default: as in fine-tuning)")
    add("--skip-bad", action="store_true", help="list unusable molecules in skipped.csv and continue")
    declare_computing(verb)
    verb.set_defaults(run=_run, stopped="Stopped. Finished conformers are kept; nothing else was written.")


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
