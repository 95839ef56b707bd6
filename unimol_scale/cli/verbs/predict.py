"""The verb ``predict``: arguments and printing. Imports the rest only when it runs."""

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
    text = "predict properties of molecules with a fine-tuned model, averaging its seeds"
    columns = (
        "The output has all columns of the file, and: row (from 1, without the header); smiles_used and changes (how "
        "the molecule was modified); for each target its prediction and its seed_std. seed_std is the spread of the "
        "seeds, not an error bar: errors are usually larger. With several conformers per molecule, conformer_std is "
        "the spread over them; with --dropout-samples, dropout_std is the spread over draws of the head's dropout. "
        "TARGET low and TARGET high bound a conformal prediction interval, and TARGET classes lists the classes of a "
        "conformal prediction set. in_domain says whether a training molecule is similar enough to trust them, and "
        "nearest_training_smiles names the most similar one."
    )
    verb = verbs.add_parser("predict", help=text, description=f"{as_sentence(text)} {columns}")
    add = verb.add_argument
    add("file", type=Path, metavar="FILE", help="CSV, TSV, Parquet, SMILES lines, SDF, or a conformer store")
    add("--from", dest="folder", type=Path, required=True, metavar="DIR", help="folder that finetune wrote")
    add("--output", type=Path, required=True, metavar="FILE", help="the CSV or Parquet file to write")
    add("--smiles-column", metavar="C", help="column of the SMILES (default: found by common names)")
    add(
        "--fragments",
        choices=("largest", "reject"),
        help="for molecules of several fragments, such as salts: use the largest, or refuse them (default: as in "
        "fine-tuning)",
    )
    add("--conformers", type=int, metavar="K", help="conformers per molecule (default: as in fine-tuning)")
    add(
        "--dropout-samples",
        type=int,
        default=0,
        metavar="T",
        help="add the spread over T draws of the head's dropout (default: %(default)s)",
    )
    add(
        "--coverage",
        type=float,
        metavar="C",
        help="coverage of the prediction intervals or sets (default: that of the fine-tuning)",
    )
    add("--no-domain", action="store_true", help="do not search for the nearest training molecules")
    add(
        "--skip-bad", action="store_true", help="leave predictions of unusable molecules empty and list these molecules"
    )
    declare_computing(verb)
    verb.set_defaults(run=_run, stopped="Stopped. Finished conformers are kept; nothing else was written.")


def _run(arguments: argparse.Namespace) -> int:
    from unimol_scale.downstream.compute import use_granted_cores
    from unimol_scale.downstream.finetuning.predict import predict_file

    keep_freed_memory()
    use_granted_cores()
    summary = predict_file(
        arguments.file,
        arguments.folder,
        arguments.output,
        smiles_column=arguments.smiles_column,
        skip_bad=arguments.skip_bad,
        cache=arguments.cache,
        max_pairs=arguments.max_pairs,
        device_name=arguments.device,
        fragments=arguments.fragments,
        conformers=arguments.conformers,
        coverage=arguments.coverage,
        domain=not arguments.no_domain,
        dropout_samples=arguments.dropout_samples,
    )
    print(summary)
    return 0
