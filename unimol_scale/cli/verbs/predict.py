"""The verb ``predict``: arguments and printing. Imports the rest only when it runs."""

import argparse
from pathlib import Path
from typing import Any

from unimol_scale.common.machine.memory import keep_freed_memory


def add_verbs(verbs: Any) -> None:  # noqa: ANN401
    """Declare the verb.

    Args:
        verbs: what ``ArgumentParser.add_subparsers`` returned.
    """
    text = "predict properties of molecules with a fine-tuned model; several seeds are averaged"
    columns = (
        "The output has all columns of the file, with row (from 1, without the header), smiles_used and changes (what "
        "was done to the molecule), and for each target its prediction and its seed_std. That is the spread of the "
        "seeds and no error bar: errors are larger, as a rule. With several conformers of a molecule, conformer_std is "
        "the spread over them; with --dropout-samples, dropout_std is that over draws of the head's dropout. "
        "TARGET low and TARGET high are the ends of a conformal interval, TARGET classes the "
        "credible classes; in_domain says whether a training molecule is near enough for that, and "
        "nearest_training_smiles which one is nearest."
    )
    verb = verbs.add_parser("predict", help=text, description=f"{text}. {columns}")
    add = verb.add_argument
    add("file", type=Path, metavar="FILE", help="CSV, TSV, Parquet, SMILES lines, SDF, or a conformer store")
    add("--from", dest="folder", type=Path, required=True, metavar="DIR", help="folder that finetune wrote")
    add("--output", type=Path, required=True, metavar="FILE", help="CSV or Parquet")
    add("--smiles-column", metavar="C", help="found by the usual names if not given")
    add(
        "--fragments", choices=("largest", "reject"), help="of rows with several (default: as the model was fine-tuned)"
    )
    add("--conformers", type=int, metavar="K", help="of each molecule (default: as the model was fine-tuned)")
    add("--dropout-samples", type=int, default=0, metavar="T", help="spread over T draws of the head's dropout, too")
    add("--coverage", type=float, metavar="C", help="of intervals or sets (default: as the model was fine-tuned, 0.9)")
    add("--no-domain", action="store_true", help="do not look for the nearest training molecules")
    add("--skip-bad", action="store_true", help="leave unusable molecules empty and list them beside the output")
    add("--cache", type=Path, default=Path("data/cache"), metavar="DIR", help="of conformers (default: %(default)s)")
    add("--max-pairs", type=int, metavar="N", help="memory budget in padded pairs (default: what suits the device)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: %(default)s)")
    verb.set_defaults(run=_run, stopped="Stopped. Conformers that are ready are kept; nothing else was written.")


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
